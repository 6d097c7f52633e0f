"""Runs the benchmark: `python -m benchmarks`, some six minutes; with `--quick` one minute and a smaller large set."""

import os
import pstats
import sys
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks import sign_in
from benchmarks.contenders import BenchmarkFailed, Cores
from benchmarks.load import ask_each_once, ask_for
from benchmarks.measure import Pair, compare
from benchmarks.report import Comparison, add, missed_targets, show, write
from benchmarks.stage import LIST, ONE, Data, Filled, both_on, fill
from deploy.local.errors import LocalError, sentence_of
from deploy.local.lock import only_one
from deploy.local.servers import LocalServers

LOCAL = Path(__file__).parents[1] / ".local"
console = Console()


@dataclass(frozen=True)
class Plan:
    """How often both servers are started on each set of data, and then how many rounds of how many seconds they are asked."""

    starts: int
    rounds: int
    seconds: float
    data: tuple[Data, ...]


SMALL = Data("small", 20, 50)
FULL = Plan(5, 2, 1.5, (SMALL, Data("large", 10_000, 100)))
QUICK = Plan(2, 2, 0.7, (SMALL, Data("large", 1_000, 100)))
PROFILE_SECONDS = 10.0


def main(
    quick: Annotated[bool, typer.Option(help="About a minute; the large set is smaller")] = False,
    check: Annotated[bool, typer.Option(help="Fail where a target is missed")] = False,
    profile: Annotated[bool, typer.Option(help="Show where the service's time goes, and measure nothing")] = False,
) -> None:
    """Measure the service against a bare handler that answers the same rows."""
    cores = Cores.of_this_machine()
    if cores is not None:
        os.sched_setaffinity(0, cores.others)
    try:
        with (
            only_one(LOCAL / "bench.lock", "ports of its own"),
            LocalServers(LOCAL / "bench", durable=False) as servers,
            ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor,
        ):
            if profile:
                show_profile(servers, cores, executor)
                return
            missed = run(servers, cores, executor, QUICK if quick else FULL, LOCAL / "bench.json")
            missed += run_sign_in(servers, cores, sign_in.QUICK if quick else sign_in.FULL, LOCAL / "bench.json")
    except (BenchmarkFailed, LocalError) as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(sentence_of(error, LOCAL))
    for sentence in missed:
        console.print(f"[red]missed[/]  {sentence}", soft_wrap=True)
    if not missed:
        console.print("[green]all targets hold[/]")
    sys.exit(1 if check and missed else 0)


def run(servers: LocalServers, cores: Cores | None, executor: Executor, plan: Plan, output: Path) -> list[str]:
    """Measure, print the table, write the file, and return which targets were missed."""
    pairs: dict[tuple[str, str], list[Pair]] = {(endpoint, data.name): [] for data in plan.data for endpoint in (LIST, ONE)}
    redis_lost = 0
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("starting")

        def say(what: str, who: str) -> None:
            bar.update(task, description=f"{what}, {who}")

        filled: list[Filled] = []
        for data in plan.data:
            bar.update(task, description=f"filling a database: {data}")
            filled.append(fill(servers, data))
        # A process is a few percent faster or slower than the next one of the same program, for as long as it lives: each set of data gets several.
        for start, each in product(range(1, plan.starts + 1), filled):
            name = f"start {start} of {plan.starts}, {each.data.name}"
            bar.update(task, description=f"{name}: warming the caches of {each.data.tenants:,} tenants")
            with both_on(each, servers, cores) as both:
                both.check_answers()
                executor.submit(ask_each_once, both.loads(LIST)[0]).result()
                for endpoint in (LIST, ONE):
                    service, bare = both.loads(endpoint)
                    pairs[endpoint, each.data.name] += compare(
                        executor,
                        (both.service, service),
                        (both.bare, bare),
                        rounds=plan.rounds,
                        seconds=plan.seconds,
                        progress=partial(say, f"{name}: {endpoint}"),
                    )
                redis_lost += both.service.log.read_text().count('"redis is away"')
    comparisons = [Comparison.of(endpoint, data, measured) for (endpoint, data), measured in pairs.items()]
    console.print(" · ".join(f"{data.name}: {data}" for data in plan.data))
    show(console, comparisons)
    write(output, comparisons)
    return missed_targets(comparisons, redis_lost)


def run_sign_in(servers: LocalServers, cores: Cores | None, plan: sign_in.Plan, output: Path) -> list[str]:
    """Measure signing in, print the table, add to the file, and return which targets were missed."""
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("signing in")
        rows = sign_in.measure_sign_in(servers, cores, plan, lambda what: bar.update(task, description=what))
    sign_in.show_sign_in(console, rows)
    add(output, sign_in.as_json(rows))
    return [row.missed for row in rows if row.missed]


def show_profile(servers: LocalServers, cores: Cores | None, executor: Executor) -> None:
    """Run the service under cProfile and print what takes the most time. The profiler more than doubles it, Python calls above all."""
    results = servers.directory / "service.prof"
    with both_on(fill(servers, SMALL), servers, cores, wrapper=("-m", "cProfile", "-o", str(results))) as both:
        for endpoint in (LIST, ONE):
            executor.submit(ask_for, PROFILE_SECONDS, both.loads(endpoint)[0]).result()
    statistics = pstats.Stats(str(results))
    statistics.sort_stats("tottime").print_stats(45)
    console.print(f"All of it is in {results}: python -m pstats {results}")


if __name__ == "__main__":
    typer.run(main)
