"""The worker as a real process: told to stop, killed at any moment, cut off from its servers, and several at once."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from redis.asyncio import Redis

from app.config import Settings
from app.core.view_counts import PENDING_KEY
from app.services.container import Services
from deploy.local.memory import free_port
from tests.factories import Factory
from tests.faults.support import PATIENCE, Process, ServerProcess, Valkey, changed, environment_of, eventually, process, proxy_to, server_process
from tests.jobs.support import QUICK_WORKER, WORKER, add, said, started

KILLS, JOB_KILLS = 15, 6
SERVER_KILLS = 3


@pytest.fixture
async def services(settings: Settings, own_valkey: Valkey) -> AsyncIterator[Services]:
    """The parts of an application that shares the workers' servers."""
    made = Services.from_settings(changed(settings, redis_url=own_valkey.url))
    yield made
    await made.close()


@pytest.fixture
def environment(settings: Settings, own_valkey: Valkey) -> dict[str, str]:
    return environment_of(settings, redis_url=own_valkey.url, view_flush_seconds=1, log_level="INFO")


async def total(factory: Factory, tenant_id: object) -> int:
    (row,) = await factory.run("SELECT coalesce(sum(view_count), 0) FROM projects WHERE tenant_id = :id", id=tenant_id)
    return int(row[0])


async def queue(factory: Factory, kind: str) -> list[tuple[str, int]]:
    """The states and attempts of the jobs of a kind."""
    return [tuple(row) for row in await factory.run("SELECT status::text, attempts FROM jobs.pgqueuer WHERE entrypoint = :kind ORDER BY id", kind=kind)]


async def stopped(*workers: Process) -> list[int]:
    """Tell workers to stop. Returns their exit codes."""
    for worker in workers:
        # Before that it has no handler, and the signal would simply end it.
        await said(worker, "worker started")
        worker.send(signal.SIGTERM)
    return [await asyncio.to_thread(worker.wait) for worker in workers]


def job_of(seconds: float = 0, *, always: bool = False) -> dict[str, Any]:
    """A payload of `test_add`: the first attempt lasts so long, or every attempt does."""
    return {"key": uuid4().hex, "seconds": seconds, "always": always}


# Stopping


async def test_sigterm_lets_it_finish_what_it_holds_and_take_nothing_new(
    services: Services, redis: "Redis", factory: Factory, environment: dict[str, str], tmp_path: Path
) -> None:
    project = await factory.project(await factory.tenant())
    held, late = job_of(1.5), job_of()
    with process(tmp_path, QUICK_WORKER, environment) as worker:
        await said(worker, "worker started")
        await add(services, "test_add", held, tenant_id=project.tenant_id)

        async def begun() -> bool:
            return bool(await redis.exists(held["key"]))

        await eventually(begun)
        worker.send(signal.SIGTERM)
        await asyncio.sleep(0.3)
        await add(services, "test_add", late, tenant_id=project.tenant_id)
        assert await asyncio.to_thread(worker.wait) == 0
        assert worker.lines[-1]["event"] == "worker stopped"
    assert await total(factory, project.tenant_id) == 1
    assert await queue(factory, "test_add") == [("queued", 0)]
    assert not await redis.exists(late["key"])


async def test_what_is_not_finished_by_the_deadline_is_done_by_another_and_not_lost(
    services: Services, redis: "Redis", factory: Factory, environment: dict[str, str], tmp_path: Path
) -> None:
    project = await factory.project(await factory.tenant())
    endless = job_of(3600)
    with process(tmp_path, QUICK_WORKER, environment) as worker:
        await said(worker, "worker started")
        await add(services, "test_add", endless, tenant_id=project.tenant_id)

        async def begun() -> bool:
            return bool(await redis.exists(endless["key"]))

        await eventually(begun)
        told = time.monotonic()
        assert await stopped(worker) == [0]
        # The deadline of this worker is 2 s, and 24 s of one in production.
        assert time.monotonic() - told < 6
        assert "job interrupted, goes back into the queue" in worker.output
    assert await queue(factory, "test_add") == [("queued", 1)]
    with process(tmp_path, QUICK_WORKER, environment) as worker:

        async def done() -> bool:
            return await total(factory, project.tenant_id) == 1

        await eventually(done)
        assert await stopped(worker) == [0]
    assert await queue(factory, "test_add") == []


async def test_a_worker_that_cannot_end_in_order_leaves_all_the_same(
    services: Services, settings: Settings, redis: "Redis", factory: Factory, own_valkey: Valkey, tmp_path: Path
) -> None:
    """PostgreSQL hangs, so nothing can be put back: the job is found by its heartbeat."""
    project = await factory.project(await factory.tenant())
    endless = job_of(3600)
    async with proxy_to(settings.database_url.get_secret_value()) as (proxy, url):
        with process(tmp_path, QUICK_WORKER, environment_of(settings, redis_url=own_valkey.url, database_url=url, log_level="INFO")) as worker:
            await said(worker, "worker started")
            await add(services, "test_add", endless, tenant_id=project.tenant_id)

            async def begun() -> bool:
                return bool(await redis.exists(endless["key"]))

            await eventually(begun)
            proxy.freeze()
            told = time.monotonic()
            await stopped(worker)
            assert time.monotonic() - told < 10
    assert await queue(factory, "test_add") == [("picked", 0)]


# Killing


async def test_a_job_of_a_killed_worker_is_done_within_half_a_minute_and_once(
    services: Services, redis: "Redis", factory: Factory, environment: dict[str, str], tmp_path: Path
) -> None:
    """With the pace of production."""
    project = await factory.project(await factory.tenant())
    held = job_of(3600)
    production = [*QUICK_WORKER, "usual"]
    first, second = await started(tmp_path, environment, arguments=production)
    try:
        await add(services, "test_add", held, tenant_id=project.tenant_id)

        async def begun() -> bool:
            return bool(await redis.exists(held["key"]))

        await eventually(begun)
        ((holder,),) = await factory.run("SELECT queue_manager_id FROM jobs.pgqueuer WHERE entrypoint = 'test_add'")
        assert holder is not None
        for worker in (first, second):
            worker.kill()
        killed = time.monotonic()
        (third,) = await started(tmp_path / "third", environment, 1, arguments=production)
        try:

            async def done() -> bool:
                return await total(factory, project.tenant_id) == 1

            await eventually(done)
            assert time.monotonic() - killed < 30
            assert await stopped(third) == [0]
        finally:
            third.kill()
    finally:
        for worker in (first, second):
            worker.kill()
    assert await queue(factory, "test_add") == []
    assert await total(factory, project.tenant_id) == 1


async def test_jobs_of_workers_that_are_killed_at_any_moment_have_their_effect_once(
    services: Services, redis: "Redis", factory: Factory, environment: dict[str, str], tmp_path: Path
) -> None:
    projects = [await factory.project(await factory.tenant()) for _ in range(4)]
    chance = random.Random(11)
    workers = await started(tmp_path, environment, arguments=QUICK_WORKER)
    try:
        for _ in range(JOB_KILLS):
            oldest = workers.pop(0)
            await said(oldest, "worker started")
            for project in projects:
                await add(services, "test_add", *(job_of(chance.uniform(0, 0.1)) for _ in range(5)), tenant_id=project.tenant_id)
            await asyncio.sleep(chance.uniform(0, 0.3))
            await asyncio.to_thread(oldest.kill)
            workers.append(Process(tmp_path / "more", QUICK_WORKER, environment))

        async def all_done() -> bool:
            return await queue(factory, "test_add") == []

        await eventually(all_done)
        assert await stopped(*workers) == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    assert [await total(factory, project.tenant_id) for project in projects] == [5 * JOB_KILLS] * 4


async def test_views_are_neither_lost_nor_doubled_by_workers_that_are_killed_at_any_moment(
    redis: "Redis", factory: Factory, environment: dict[str, str], tmp_path: Path
) -> None:
    """Views keep coming while workers are killed and replaced, two at a time."""
    tenants = [await factory.tenant() for _ in range(3)]
    projects = [await factory.project(tenant) for tenant in tenants for _ in range(4)]
    chance = random.Random(7)
    sent = 0
    enough = asyncio.Event()

    async def keep_viewing() -> None:
        nonlocal sent
        while not enough.is_set():
            project = chance.choice(projects)
            await redis.hincrby(PENDING_KEY, f"{project.tenant_id}:{project.id}", 1)
            sent += 1
            if sent % 20 == 0:
                await asyncio.sleep(0.005)

    async def added() -> int:
        return sum([await total(factory, tenant.id) for tenant in tenants])

    viewing = asyncio.create_task(keep_viewing())
    workers = [Process(tmp_path, QUICK_WORKER, environment) for _ in range(2)]
    try:
        kills = 0
        # Until some views were added in between, or the kills would have met no worker at its work.
        while kills < KILLS or not await added():
            kills += 1
            assert kills < 10 * KILLS
            oldest = workers.pop(0)
            await said(oldest, "worker started")
            workers.append(Process(tmp_path, QUICK_WORKER, environment))
            # From before its first batch to in the middle of its last.
            await asyncio.sleep(chance.uniform(0, 1.0))
            await asyncio.to_thread(oldest.kill)
            assert oldest.exit_code == -signal.SIGKILL, (kills, oldest.output)
        enough.set()
        await viewing

        async def all_added() -> bool:
            return await added() == sent and not await redis.keys("{views}*")

        await eventually(all_added, 2 * PATIENCE)
        assert await stopped(*workers) == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    assert sent > 100
    assert await added() == sent


async def test_an_api_killed_right_after_answering_has_lost_no_view(
    settings: Settings, own_valkey: Valkey, redis: "Redis", factory: Factory, environment: dict[str, str], tmp_path: Path
) -> None:
    """The sum in PostgreSQL is the number of answers with 200, to the last one before the kill."""
    person = await factory.person()
    project = await factory.project(person.tenant)
    answered = 0

    async def ask(client: httpx.AsyncClient, server: ServerProcess, times: int) -> int:
        done = 0
        for _ in range(times):
            try:
                answer = await client.get(f"{server.url}/api/v1/projects/{project.id}", headers=person.headers)
            except httpx.TransportError:
                return done
            assert answer.status_code == 200, answer.text
            done += 1
        return done

    api = environment_of(settings, redis_url=own_valkey.url)
    with process(tmp_path / "worker", WORKER, environment) as worker:
        for round_ in range(SERVER_KILLS):
            with server_process(tmp_path / "api", api) as server:
                async with httpx.AsyncClient(timeout=PATIENCE) as client:
                    answered += await ask(client, server, 20 + 7 * round_)
                    server.send(signal.SIGKILL)
                await asyncio.to_thread(server.wait)

        async def all_added() -> bool:
            return await total(factory, person.tenant.id) == answered

        await eventually(all_added)
        assert await stopped(worker) == [0]
    assert answered >= 20 * SERVER_KILLS
    assert await total(factory, person.tenant.id) == answered
    assert await redis.hlen(PENDING_KEY) == 0


async def test_a_worker_that_was_held_up_does_not_repeat_what_another_has_done_meanwhile(
    services: Services, redis: "Redis", factory: Factory, environment: dict[str, str], tmp_path: Path
) -> None:
    project = await factory.project(await factory.tenant())
    held = job_of(1)
    with process(tmp_path / "slow", QUICK_WORKER, environment) as slow:
        await said(slow, "worker started")
        await add(services, "test_add", held, tenant_id=project.tenant_id)

        async def begun() -> bool:
            return bool(await redis.exists(held["key"]))

        await eventually(begun)
        slow.send(signal.SIGSTOP)
        try:
            with process(tmp_path / "other", QUICK_WORKER, environment) as other:

                async def done() -> bool:
                    return await total(factory, project.tenant_id) == 1

                await eventually(done)
                assert await stopped(other) == [0]
        finally:
            slow.send(signal.SIGCONT)
        await said(slow, "job was done by another worker meanwhile")
        assert await stopped(slow) == [0]
    assert await total(factory, project.tenant_id) == 1


# Waking


async def test_a_new_job_wakes_a_worker_also_after_its_connection_was_cut(
    settings: Settings, services: Services, own_valkey: Valkey, redis: "Redis", factory: Factory, tmp_path: Path
) -> None:
    project = await factory.project(await factory.tenant())
    async with proxy_to(settings.database_url.get_secret_value()) as (proxy, url):
        environment = environment_of(settings, redis_url=own_valkey.url, database_listen_url=url, view_flush_seconds=60, log_level="INFO")
        with process(tmp_path, [*QUICK_WORKER, "sleepy"], environment) as worker:
            await said(worker, "worker started")
            for number in (1, 2):

                async def done(times: int = number) -> bool:
                    return await total(factory, project.tenant_id) == times

                await add(services, "test_add", job_of(), tenant_id=project.tenant_id)
                await eventually(done)
                if number == 1:
                    proxy.cut()
                    await said(worker, "the queue is back")
            assert await stopped(worker) == [0]


# Outages


async def test_it_outlives_faults_of_both_servers(
    settings: Settings, services: Services, own_valkey: Valkey, redis: "Redis", factory: Factory, tmp_path: Path
) -> None:
    project = await factory.project(await factory.tenant())
    field = f"{project.tenant_id}:{project.id}"

    def arrived_at(views: int) -> Callable[[], Awaitable[bool]]:
        async def arrived() -> bool:
            return await total(factory, project.tenant_id) == views

        return arrived

    async with proxy_to(settings.database_url.get_secret_value()) as (postgres, database_url), proxy_to(own_valkey.url) as (valkey_proxy, redis_url):
        environment = environment_of(settings, database_url=database_url, redis_url=redis_url, view_flush_seconds=1, log_level="INFO")
        with process(tmp_path, QUICK_WORKER, environment) as worker:
            await said(worker, "worker started")
            # Its connections are open by then.
            await redis.hincrby(PENDING_KEY, field, 1)
            await eventually(arrived_at(1))
            faults = ((postgres, "the queue cannot be reached, will be tried again"), (valkey_proxy, "redis is away")) * 2
            noticed: Counter[str] = Counter()
            for number, (proxy, event) in enumerate(faults, start=2):
                await proxy.refuse()
                await redis.hincrby(PENDING_KEY, field, 1)
                noticed[event] += 1
                await said(worker, event, noticed[event])
                await proxy.open()

                await eventually(arrived_at(number))
            assert await stopped(worker) == [0]


async def test_a_job_that_ends_while_postgresql_is_away_is_not_lost(
    settings: Settings, services: Services, own_valkey: Valkey, redis: "Redis", factory: Factory, tmp_path: Path
) -> None:
    project = await factory.project(await factory.tenant())
    held = job_of(0.5, always=True)
    async with proxy_to(settings.database_url.get_secret_value()) as (postgres, url):
        with process(tmp_path, QUICK_WORKER, environment_of(settings, redis_url=own_valkey.url, database_url=url, log_level="INFO")) as worker:
            await said(worker, "worker started")
            await add(services, "test_add", held, tenant_id=project.tenant_id)

            async def begun() -> bool:
                return bool(await redis.exists(held["key"]))

            await eventually(begun)
            await postgres.refuse()
            await said(worker, "job failed, will be tried again")
            await postgres.open()

            async def done() -> bool:
                return await total(factory, project.tenant_id) == 1 and await queue(factory, "test_add") == []

            await eventually(done)
            assert await stopped(worker) == [0]
    assert await total(factory, project.tenant_id) == 1


async def test_a_worker_started_while_postgresql_is_away_waits_for_it(settings: Settings, own_valkey: Valkey, tmp_path: Path) -> None:
    async with proxy_to(settings.database_url.get_secret_value()) as (postgres, url):
        await postgres.refuse()
        with process(tmp_path, WORKER, environment_of(settings, redis_url=own_valkey.url, database_url=url, log_level="INFO")) as worker:
            await said(worker, "PostgreSQL is away, will be tried again")
            await postgres.open()
            await said(worker, "worker started")
            assert await stopped(worker) == [0]


# Failing


async def test_a_job_that_fails_is_tried_again_and_its_error_is_stored_nowhere(
    services: Services, redis: "Redis", factory: Factory, environment: dict[str, str], tmp_path: Path
) -> None:
    """Neither in PgQueuer's tables nor in the log: an error's text may hold an address."""
    with process(tmp_path, QUICK_WORKER, environment) as worker:
        await said(worker, "worker started")
        await add(services, "test_fail", {"key": uuid4().hex, "times": 2})
        await add(services, "test_give_up", {"key": "given up"})

        async def settled() -> bool:
            return await queue(factory, "test_fail") == [] and await queue(factory, "test_give_up") == [("failed", 0)]

        await eventually(settled)
        assert await redis.get("given up") == b"1"
        assert await stopped(worker) == [0]
    pauses = [line["pause_seconds"] for line in worker.lines if line["event"] == "job failed, will be tried again"]
    assert pauses == [1, 2]
    (failed,) = [line for line in worker.lines if line["event"] == "job failed for good, kept for an operator"]
    assert (failed["kind"], failed["attempt"], failed["error"]) == ("test_give_up", 1, "GiveUp")
    assert any("quick_worker.py" in place for place in failed["at"])
    tables = ("pgqueuer", "pgqueuer_log", "pgqueuer_statistics", "pgqueuer_schedules")
    stored = [str(row) for table in tables for (row,) in await factory.run(f"SELECT to_jsonb(t) FROM jobs.{table} t")]
    assert any("ConnectionRefusedError" in row for row in stored)
    for secret in ("somebody.secret", "hunter2"):
        assert not [row for row in stored if secret in row]
        assert secret not in worker.output


# The clock


async def test_each_tick_fires_once_however_many_workers_run(redis: "Redis", factory: Factory, environment: dict[str, str], tmp_path: Path) -> None:
    workers = await started(tmp_path, environment, 3)
    try:

        async def ticked() -> bool:
            ((times,),) = await factory.run("SELECT count(*) FROM jobs.pgqueuer_log WHERE entrypoint = 'flush_view_counts' AND status = 'queued'")
            return bool(times >= 5)

        await eventually(ticked)
        assert await stopped(*workers) == [0, 0, 0]
    finally:
        for worker in workers:
            worker.kill()
    queued = await factory.run("SELECT created FROM jobs.pgqueuer_log WHERE entrypoint = 'flush_view_counts' AND status = 'queued' ORDER BY created")
    seconds = Counter(int(created.timestamp()) for (created,) in queued)
    assert set(seconds.values()) == {1}, seconds


async def test_metrics_tell_of_jobs(services: Services, redis: "Redis", factory: Factory, environment: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    with process(tmp_path, QUICK_WORKER, {**environment, "WORKER_METRICS_PORT": str(port)}) as worker:
        await said(worker, "worker started")
        await add(services, "test_fail", {"key": uuid4().hex, "times": 1})
        await add(services, "test_give_up", {"key": uuid4().hex})

        async def told() -> bool:
            async with httpx.AsyncClient() as client:
                text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
            wanted = [("test_fail", "retried"), ("test_fail", "done"), ("test_give_up", "failed")]
            return all(f'jobs_total{{kind="{kind}",outcome="{outcome}"}} 1.0' in text for kind, outcome in wanted) and "jobs_oldest_waiting_seconds 0.0" in text

        await eventually(told)
        assert await stopped(worker) == [0]
