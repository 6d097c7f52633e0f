"""The whole benchmark, as short as it can be: real servers, real requests."""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest

from benchmarks.__main__ import Plan, run
from benchmarks.contenders import BenchmarkFailed, running
from benchmarks.load import Load
from benchmarks.stage import LIST, ONE, Data, Stage, both_on, fill
from deploy.local.servers import LocalServers

TINY = Data("tiny", 2, 25)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServers]:
    with LocalServers(tmp_path_factory.mktemp("bench"), durable=False) as running_servers:
        yield running_servers


def test_a_short_run_measures_both_servers_and_writes_the_figures(servers: LocalServers, tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        missed = run(servers, None, executor, Plan(2, 1, 0.3, (TINY,)), output)
    rows = json.loads(output.read_text())
    assert [row["name"] for row in rows] == [f"{endpoint}, tiny, {who}" for endpoint in (LIST, ONE) for who in ("bare", "service")]
    assert all(row["requests_per_second"] > 0 and row["cpu_us_per_request"] > 0 and row["p99_ms"] >= row["p50_ms"] > 0 for row in rows)
    assert not [sentence for sentence in missed if "bad answers" in sentence]


class Crossed(Stage):
    """A stage on which the bare handler is asked for another tenant's rows than the service."""

    def loads(self, endpoint: str) -> tuple[Load, Load]:
        service, bare = super().loads(endpoint)
        return service, replace(bare, requests=bare.requests[::-1])


def test_servers_that_answer_different_rows_are_not_compared(servers: LocalServers) -> None:
    with both_on(fill(servers, Data("crossed", 2, 25)), servers, None) as both, pytest.raises(BenchmarkFailed, match="different rows"):
        Crossed(both.tenants, both.service, both.bare).check_answers()


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    command = ["-c", "raise SystemExit('no such setting')"]
    with pytest.raises(BenchmarkFailed, match="service did not start: no such setting"), running("service", command, tmp_path, None, {}):
        pass
