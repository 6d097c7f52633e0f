"""Rounds, and what they say."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from benchmarks.contenders import BenchmarkFailed, Contender
from benchmarks.load import Load, Outcome, ask_for

WARM_UP_SECONDS = 1.0


@dataclass(frozen=True)
class Round:
    """One contender under load for some seconds."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us_per_request: float
    busy: float
    failures: Counter[str]

    @classmethod
    def of(cls, outcome: Outcome, cpu_seconds: float) -> "Round":
        """Sum up what the load saw and what the server used. Raises `BenchmarkFailed` where nothing was answered."""
        answers = len(outcome.latencies)
        if not answers:
            raise BenchmarkFailed(f"no answer at all in {outcome.seconds:.1f} s: {dict(outcome.failures)}")
        return cls(
            requests_per_second=answers / outcome.seconds,
            p50_ms=percentile(outcome.latencies, 50) * 1000,
            p99_ms=percentile(outcome.latencies, 99) * 1000,
            cpu_us_per_request=cpu_seconds / answers * 1e6,
            busy=cpu_seconds / outcome.seconds,
            failures=outcome.failures,
        )


class Pair(NamedTuple):
    """Two rounds, one just after the other."""

    service: Round
    bare: Round


@dataclass(frozen=True)
class Row:
    """A line of the result: medians over the rounds. `ratio` is the throughput relative to the bare handler's."""

    name: str
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us_per_request: float
    ratio: float
    busy: float
    failures: Counter[str]

    @classmethod
    def of(cls, name: str, rounds: Sequence[Round], ratio: float) -> "Row":
        """Sum up the rounds of one contender."""
        return cls(
            name,
            median(r.requests_per_second for r in rounds),
            median(r.p50_ms for r in rounds),
            median(r.p99_ms for r in rounds),
            median(r.cpu_us_per_request for r in rounds),
            ratio,
            median(r.busy for r in rounds),
            sum((r.failures for r in rounds), Counter()),
        )


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least so many percent of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100).__int__() - 1)]


def ratio_of(pairs: Sequence[Pair]) -> float:
    """Return the median of the throughputs' ratios. Neighbours in time share the machine's mood, so each pair is divided by itself."""
    return median(pair.service.requests_per_second / pair.bare.requests_per_second for pair in pairs)


def compare(
    executor: Executor,
    service: tuple[Contender, Load],
    bare: tuple[Contender, Load],
    *,
    rounds: int,
    seconds: float,
    progress: Callable[[str], None],
) -> list[Pair]:
    """Measure both in turn and return each round's pair. `executor` runs the load in a process of its own."""

    def one_round(side: tuple[Contender, Load], duration: float) -> Round:
        contender, load = side
        progress(contender.name)
        before = contender.cpu_seconds()
        outcome = executor.submit(ask_for, duration, load).result()
        return Round.of(outcome, contender.cpu_seconds() - before)

    for side in (bare, service):
        one_round(side, min(seconds, WARM_UP_SECONDS))
    pairs: list[Pair] = []
    for number in range(rounds):
        # Each goes first every other time, so that a machine that gets slower or faster favours nobody.
        if number % 2:
            pairs.append(Pair(one_round(service, seconds), one_round(bare, seconds)))
        else:
            other = one_round(bare, seconds)
            pairs.append(Pair(one_round(service, seconds), other))
    return pairs
