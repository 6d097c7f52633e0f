"""Runs the benchmark: `python -m benchmarks`, some five minutes; with `--quick` one minute and a smaller large set."""

import json
import os
import pstats
import random
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from app.config import Settings
from app.core.security import AccessTokens
from benchmarks import dataset, sign_in
from benchmarks.contenders import SECRET, BenchmarkFailed, Contender, Cores, production, running
from benchmarks.dataset import SeededTenant
from benchmarks.load import Load, ask_each_once, ask_for
from benchmarks.measure import compare
from benchmarks.report import Comparison, add, missed_targets, show, write
from deploy.local.errors import LocalError, sentence_of
from deploy.local.lock import only_one
from deploy.local.servers import LocalServers

LOCAL = Path(__file__).parents[1] / ".local"
PROJECTS_ASKED = 3
LIST, ONE = "GET /projects?page_size=20", "GET /projects/{id}"
console = Console()


@dataclass(frozen=True)
class Data:
    """How much data: so many tenants, with so many projects each."""

    name: str
    tenants: int
    projects: int

    def __str__(self) -> str:
        return f"{self.tenants:,} tenants with {self.tenants * self.projects:,} projects"


@dataclass(frozen=True)
class Plan:
    """How many rounds of how many seconds, and on which data."""

    rounds: int
    seconds: float
    data: tuple[Data, ...]


SMALL = Data("small", 20, 50)
FULL = Plan(5, 3.0, (SMALL, Data("large", 10_000, 100)))
QUICK = Plan(3, 0.7, (SMALL, Data("large", 1_000, 100)))
PROFILE_SECONDS = 10.0


@dataclass(frozen=True)
class Stage:
    """Both servers, on one set of data."""

    tenants: list[SeededTenant]
    service: Contender
    bare: Contender

    def loads(self, endpoint: str) -> tuple[Load, Load]:
        """Return what the service and what the bare handler is asked."""
        if endpoint == LIST:
            service = [_request("/api/v1/projects?page_size=20", tenant) for tenant in self.tenants]
            bare = [_request(f"/projects?page_size=20&tenant_id={tenant.id}") for tenant in self.tenants]
            size = (4_000, 20_000)
        else:
            asked = [(tenant, project_id) for tenant in self.tenants for project_id in random.Random(7).sample(tenant.project_ids, PROJECTS_ASKED)]
            service = [_request(f"/api/v1/projects/{project_id}", tenant) for tenant, project_id in asked]
            bare = [_request(f"/projects/{project_id}?tenant_id={tenant.id}") for tenant, project_id in asked]
            size = (200, 2_000)
        return Load(self.service.port, service, *size), Load(self.bare.port, bare, *size)


def _request(path: str, tenant: SeededTenant | None = None) -> bytes:
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n"
    if tenant is not None:
        head += f"Authorization: Bearer {tenant.token}\r\nX-Tenant-Slug: {tenant.slug}\r\n"
    return f"{head}\r\n".encode()


@contextmanager
def stage(servers: LocalServers, cores: Cores | None, data: Data, wrapper: tuple[str, ...] = ()) -> Iterator[Stage]:
    """Fill a database and run both servers on it, the service inside of `python <wrapper>`."""
    owner_url, service_url = servers.owner_url_for(f"bench_{data.name}"), servers.service_url_for(f"bench_{data.name}")
    dataset.prepare(owner_url, service_url)
    settings = Settings(_env_file=None, secret_key=SecretStr(SECRET))
    seeded = dataset.seed(owner_url, AccessTokens(settings), tenants=data.tenants, projects=data.projects)
    with ExitStack() as both:
        bare = both.enter_context(running("bare", ["-m", "benchmarks.bare"], servers.directory, cores, {"BARE_DATABASE_URL": owner_url}))
        service = both.enter_context(running("service", [*wrapper, "-m", "app.server"], servers.directory, cores, production(service_url, servers.redis_url)))
        yield Stage(seeded, service, bare)


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
    comparisons: list[Comparison] = []
    redis_lost = 0
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("starting")
        for data in plan.data:
            bar.update(task, description=f"filling a database: {data}")
            with stage(servers, cores, data) as both:
                check_answers(both)
                bar.update(task, description=f"warming the caches: {data.tenants:,} tenants")
                executor.submit(ask_each_once, both.loads(LIST)[0]).result()
                for endpoint in (LIST, ONE):
                    service, bare = both.loads(endpoint)
                    bare_row, service_row = compare(
                        executor,
                        f"{endpoint}, {data.name}",
                        (both.service, service),
                        (both.bare, bare),
                        rounds=plan.rounds,
                        seconds=plan.seconds,
                        progress=lambda what: bar.update(task, description=what),
                    )
                    comparisons.append(Comparison(endpoint, data.name, bare_row, service_row))
                redis_lost += both.service.log.read_text().count('"redis is away"')
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


def check_answers(both: Stage) -> None:
    """Raise `BenchmarkFailed` unless both servers give the same rows."""
    for endpoint in (LIST, ONE):
        service, bare = both.loads(endpoint)
        theirs, ours = json.loads(both.bare.ask(bare.requests[0])), json.loads(both.service.ask(service.requests[0]))
        if endpoint == LIST:
            theirs, ours = theirs["items"], ours["items"]
        if theirs != ours:
            raise BenchmarkFailed(f"{endpoint}: the two servers give different rows, so there is nothing to compare:\n{theirs}\n{ours}")


def show_profile(servers: LocalServers, cores: Cores | None, executor: Executor) -> None:
    """Run the service under cProfile and print what takes the most time. The profiler more than doubles it, Python calls above all."""
    results = servers.directory / "service.prof"
    with stage(servers, cores, SMALL, wrapper=("-m", "cProfile", "-o", str(results))) as both:
        for endpoint in (LIST, ONE):
            executor.submit(ask_for, PROFILE_SECONDS, both.loads(endpoint)[0]).result()
    statistics = pstats.Stats(str(results))
    statistics.sort_stats("tottime").print_stats(45)
    console.print(f"All of it is in {results}: python -m pstats {results}")


if __name__ == "__main__":
    typer.run(main)
