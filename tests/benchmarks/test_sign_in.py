"""The benchmark of signing in: that it runs, and what it says of its targets."""

import json
from pathlib import Path

import pytest

from benchmarks.report import add
from benchmarks.sign_in import Crowd, Difference, Plan, as_json, measure_sign_in
from deploy.local.servers import LocalServers


def test_a_short_run_measures_differences_and_a_crowd(tmp_path_factory: pytest.TempPathFactory) -> None:
    with LocalServers(tmp_path_factory.mktemp("bench"), durable=False) as servers:
        *differences, crowd = measure_sign_in(servers, None, Plan(2, 1, 0.5), lambda _: None)
    assert [row.name.split()[1].rpartition("/")[2] for row in differences] == ["login:", "forgot:", "resend:"]
    assert all(isinstance(row, Difference) and row.p50_ms > 0 and row.other_p50_ms > 0 and row.ratio > 0 for row in differences)
    assert isinstance(crowd, Crowd)
    assert crowd.sign_ins > 0
    assert crowd.told_to_come_back > 0
    assert crowd.p99_ms >= crowd.p50_ms > 0


@pytest.mark.parametrize(("ratio", "is_missed"), [(0.94, True), (0.951, False), (1.0, False), (1.049, False), (1.06, True)])
def test_medians_must_not_differ_by_more_than_five_percent(ratio: float, is_missed: bool) -> None:
    assert (Difference("login", 300.0, 300.0, ratio).missed is not None) == is_missed


@pytest.mark.parametrize(("p99", "is_missed"), [(99.9, False), (100.0, True)])
def test_a_crowd_must_not_stall_others(p99: float, is_missed: bool) -> None:
    assert (Crowd("me", 5.0, p99, 100, 10, 10).missed is not None) == is_missed


def test_the_rows_are_added_to_those_that_are_there_and_have_their_keys(tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    output.write_text('[{"name": "first"}]')
    add(output, as_json([Difference("second", 1.00049, 2.0, 0.5), Crowd("third", 1.0, 2.0, 300, 40, 5)]))
    nothing = {"requests_per_second": None, "cpu_us_per_request": None}
    assert json.loads(output.read_text()) == [
        {"name": "first"},
        {"name": "second", "p50_ms": 1.0, "p99_ms": None, "ratio": 0.5, "other_p50_ms": 2.0, **nothing},
        {"name": "third", "p50_ms": 1.0, "p99_ms": 2.0, "ratio": None, "requests": 300, "sign_ins": 40, "told_to_come_back": 5, **nothing},
    ]
