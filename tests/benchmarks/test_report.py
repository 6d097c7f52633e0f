"""What the benchmark says of its targets, and what it writes down."""

import json
from collections import Counter
from pathlib import Path

from benchmarks.measure import Row
from benchmarks.report import Comparison, missed_targets, write


def comparison(endpoint: str, ratio: float, failures: int = 0) -> Comparison:
    rows = [Row(f"{endpoint}, {who}", 1000.0, 1.0, 2.0, 300.123456, value, 0.9, Counter()) for who, value in (("bare", 1.0), ("service", ratio))]
    if failures:
        rows[1].failures["500"] = failures
    return Comparison(endpoint, "large", *rows)


def test_targets_that_hold_are_not_mentioned() -> None:
    assert not missed_targets([comparison("list", 0.5), comparison("one", 0.4), comparison("list", 0.46), comparison("one", 0.4)], 0)


def test_a_ratio_below_the_target_is_missed() -> None:
    assert [line[:4] for line in missed_targets([comparison("list", 0.5), comparison("one", 0.39)], 0)] == ["one,"]


def test_a_larger_database_must_not_cost_more_than_a_tenth_of_the_ratio() -> None:
    missed = missed_targets([comparison("list", 0.6), comparison("one", 0.6), comparison("list", 0.53), comparison("one", 0.55)], 0)
    assert len(missed) == 1
    assert missed[0].startswith("list: the large data lower the ratio by 12%")


def test_bad_answers_and_a_lost_redis_are_missed_targets() -> None:
    assert len(missed_targets([comparison("list", 0.5, failures=3)], 0)) == 1
    assert len(missed_targets([comparison("list", 0.5)], 2)) == 1


def test_the_file_holds_a_row_for_each_server(tmp_path: Path) -> None:
    write(tmp_path / "bench.json", [comparison("list", 0.5)])
    rows = json.loads((tmp_path / "bench.json").read_text())
    assert rows[1] == {"name": "list, service", "requests_per_second": 1000.0, "p50_ms": 1.0, "p99_ms": 2.0, "cpu_us_per_request": 300.123, "ratio": 0.5}
    assert [row["name"] for row in rows] == ["list, bare", "list, service"]
