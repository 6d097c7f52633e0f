"""The arithmetic of the benchmark."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.contenders import BenchmarkFailed
from benchmarks.load import Outcome
from benchmarks.measure import Pair, Round, Row, percentile, ratio_of


def round_with(requests_per_second: float, **values: float) -> Round:
    fields = {"p50_ms": 1.0, "p99_ms": 2.0, "cpu_us_per_request": 100.0, "busy": 0.5}
    return Round(requests_per_second, **{**fields, **values}, failures=Counter())


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, percent) for percent in (0, 1, 50, 99, 100)] == [1, 1, 50, 99, 100]
    assert percentile([7.0], 99) == 7


@given(st.lists(st.floats(0, 1000), min_size=1), st.integers(1, 100))
def test_so_many_percent_of_the_values_are_at_most_the_percentile(values: list[float], percent: int) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) * 100 >= percent * len(values)
    assert sum(value < found for value in values) * 100 < percent * len(values)


def test_a_round_is_summed_up_per_request() -> None:
    outcome = Outcome(2.0, [0.001] * 98 + [0.5] * 2, Counter({"503": 1}))
    found = Round.of(outcome, cpu_seconds=1.0)
    assert found == Round(50.0, 1.0, 500.0, 10_000.0, 0.5, Counter({"503": 1}))


def test_a_round_without_an_answer_fails() -> None:
    with pytest.raises(BenchmarkFailed, match="connection lost"):
        Round.of(Outcome(1.0, [], Counter({"connection lost": 32})), 0.1)


def test_the_ratio_is_the_median_of_the_pairs_not_the_ratio_of_the_medians() -> None:
    # The machine halved its speed after the first pair: each pair still says the same.
    pairs = [Pair(round_with(400), round_with(1000)), Pair(round_with(200), round_with(500)), Pair(round_with(200), round_with(500))]
    assert ratio_of(pairs) == pytest.approx(0.4)
    # One bad round does not count.
    assert ratio_of([*pairs, Pair(round_with(10), round_with(1000)), Pair(round_with(400), round_with(1000))]) == pytest.approx(0.4)


def test_a_row_holds_medians_and_the_failures_of_all_rounds() -> None:
    rounds = [round_with(100, p50_ms=1), round_with(300, p50_ms=9), round_with(200, p50_ms=3)]
    rounds[0].failures["429"] = 2
    rounds[2].failures["429"] = 1
    row = Row.of("list", rounds, 0.5)
    assert (row.requests_per_second, row.p50_ms, row.ratio, row.failures) == (200, 3, 0.5, {"429": 3})
