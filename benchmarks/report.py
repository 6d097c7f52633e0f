"""Shows what was measured, writes it down, and says whether the targets hold."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Pair, Row, ratio_of

LOWEST_RATIO = 0.4
LARGEST_LOSS = 0.1
KEYS = ("name", "requests_per_second", "p50_ms", "p99_ms", "cpu_us_per_request", "ratio")


@dataclass(frozen=True)
class Comparison:
    """One endpoint on one set of data: the bare handler's row and the service's."""

    endpoint: str
    data: str
    bare: Row
    service: Row

    @classmethod
    def of(cls, endpoint: str, data: str, pairs: Sequence[Pair]) -> "Comparison":
        """Sum up what was measured of one endpoint on one set of data."""
        bare = Row.of(f"{endpoint}, {data}, bare", [pair.bare for pair in pairs], 1.0)
        return cls(endpoint, data, bare, Row.of(f"{endpoint}, {data}, service", [pair.service for pair in pairs], ratio_of(pairs)))


def show(console: Console, comparisons: Sequence[Comparison]) -> None:
    """Print the table."""
    table = Table("", "req/s", "p50 ms", "p99 ms", "CPU µs", "busy", "ratio", caption="CPU µs: of the server's process, per request · busy: of its core")
    for column in table.columns[1:]:
        column.justify = "right"
    for comparison in comparisons:
        table.add_row(f"[bold]{comparison.endpoint}")
        for who, row in (("bare", comparison.bare), ("service", comparison.service)):
            table.add_row(
                f"  {comparison.data}: {who}",
                f"{row.requests_per_second:,.0f}",
                f"{row.p50_ms:.1f}",
                f"{row.p99_ms:.1f}",
                f"{row.cpu_us_per_request:.0f}",
                f"{row.busy:.0%}",
                f"{row.ratio:.2f}",
            )
        table.add_section()
    console.print(table)


def write(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Write the rows as JSON."""
    rows = [row for comparison in comparisons for row in (comparison.bare, comparison.service)]
    path.write_text(json.dumps([{key: _rounded(getattr(row, key)) for key in KEYS} for row in rows], indent=2) + "\n")


def add(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows of another kind to those that were written."""
    path.write_text(json.dumps([*json.loads(path.read_text()), *rows], indent=2) + "\n")


def _rounded(value: float | str) -> float | str:
    return value if isinstance(value, str) else round(value, 3)


def missed_targets(comparisons: Sequence[Comparison], redis_lost: int) -> list[str]:
    """Return what is not as it should be, one sentence each."""
    missed = [f"{c.service.name}: ratio {c.service.ratio:.2f}, and it should be {LOWEST_RATIO} at least" for c in comparisons if c.service.ratio < LOWEST_RATIO]
    missed += [f"{row.name}: {sum(row.failures.values())} bad answers" for c in comparisons for row in (c.bare, c.service) if row.failures]
    first: dict[str, Comparison] = {}
    for comparison in comparisons:
        base = first.setdefault(comparison.endpoint, comparison)
        if comparison.service.ratio < base.service.ratio * (1 - LARGEST_LOSS):
            loss = 1 - comparison.service.ratio / base.service.ratio
            missed.append(f"{comparison.endpoint}: the {comparison.data} data lower the ratio by {loss:.0%}, and it should be {LARGEST_LOSS:.0%} at most")
    if redis_lost:
        missed.append(f"the service lost Redis {redis_lost} times on the way, so it did not run as it should: the machine is too busy with other things")
    return missed
