"""The worker as a real process: told to stop, killed at any moment, and several at once."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from app.config import Settings
from app.core.view_counts import PENDING_KEY
from tests.factories import Factory
from tests.faults.support import PATIENCE, Process, ServerProcess, Valkey, environment_of, eventually, process, proxy_to, server_process, valkey

WORKER = ["-m", "app.jobs.worker"]
KILLS = 15
SERVER_KILLS = 3


@pytest.fixture(scope="module")
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
async def redis(own_valkey: Valkey) -> AsyncIterator["Redis"]:
    async with Redis.from_url(own_valkey.url) as client:
        await client.flushall()
        yield client


@pytest.fixture
def environment(settings: Settings, own_valkey: Valkey) -> dict[str, str]:
    return environment_of(settings, redis_url=own_valkey.url, view_flush_seconds=0.01, log_level="INFO")


async def total(factory: Factory, tenant_id: object) -> int:
    (row,) = await factory.run("SELECT coalesce(sum(view_count), 0) FROM projects WHERE tenant_id = :id", id=tenant_id)
    return int(row[0])


async def said(worker: Process, event: str) -> None:
    async def it_did() -> bool:
        assert worker.exit_code is None, worker.output
        return any(line["event"] == event for line in worker.lines)

    await eventually(it_did)


async def test_sigterm_flushes_what_is_there_and_exits_0(settings: Settings, own_valkey: Valkey, redis: "Redis", factory: Factory, tmp_path: Path) -> None:
    project = await factory.project(await factory.tenant())
    rarely = environment_of(settings, redis_url=own_valkey.url, view_flush_seconds=3600, log_level="INFO")
    with process(tmp_path, WORKER, rarely) as worker:
        await said(worker, "worker started")
        await asyncio.sleep(0.5)
        await redis.hincrby(PENDING_KEY, f"{project.tenant_id}:{project.id}", 7)
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
        assert worker.lines[-1]["event"] == "worker stopped"
    assert await total(factory, project.tenant_id) == 7
    assert await redis.keys("*") == []


async def test_the_worker_outlives_faults_of_both_servers(settings: Settings, own_valkey: Valkey, redis: "Redis", factory: Factory, tmp_path: Path) -> None:
    project = await factory.project(await factory.tenant())
    field = f"{project.tenant_id}:{project.id}"
    async with proxy_to(settings.database_url.get_secret_value()) as (postgres, database_url), proxy_to(own_valkey.url) as (valkey_proxy, redis_url):
        environment = environment_of(settings, database_url=database_url, redis_url=redis_url, view_flush_seconds=0.05, log_level="INFO")
        with process(tmp_path, WORKER, environment) as worker:
            await said(worker, "worker started")
            for number, proxy in enumerate((postgres, valkey_proxy, postgres), start=1):
                await proxy.refuse()
                await redis.hincrby(PENDING_KEY, field, 1)
                failures = worker.output.count("job failed")

                async def failed(before: int = failures) -> bool:
                    return worker.output.count("job failed") > before

                await eventually(failed)
                await proxy.open()

                async def arrived(views: int = number) -> bool:
                    assert worker.exit_code is None, worker.output
                    return await total(factory, project.tenant_id) == views

                await eventually(arrived)
            worker.send(signal.SIGTERM)
            assert await asyncio.to_thread(worker.wait) == 0


async def test_workers_killed_at_any_moment_lose_and_double_nothing(redis: "Redis", factory: Factory, environment: dict[str, str], tmp_path: Path) -> None:
    """Views keep coming while workers are killed and replaced, two at a time."""
    tenants = [await factory.tenant() for _ in range(3)]
    projects = [await factory.project(tenant) for tenant in tenants for _ in range(4)]
    chance = random.Random(7)
    sent = 0
    stopped = asyncio.Event()

    async def keep_viewing() -> None:
        nonlocal sent
        while not stopped.is_set():
            project = chance.choice(projects)
            await redis.hincrby(PENDING_KEY, f"{project.tenant_id}:{project.id}", 1)
            sent += 1
            if sent % 20 == 0:
                await asyncio.sleep(0.005)

    viewing = asyncio.create_task(keep_viewing())
    workers = [Process(tmp_path, WORKER, environment) for _ in range(2)]
    try:
        for kill in range(KILLS):
            oldest = workers.pop(0)
            await said(oldest, "worker started")
            workers.append(Process(tmp_path, WORKER, environment))
            # From before its first batch to in the middle of its last.
            await asyncio.sleep(chance.uniform(0, 0.2))
            await asyncio.to_thread(oldest.kill)
            assert oldest.exit_code == -signal.SIGKILL, (kill, oldest.output)
        stopped.set()
        await viewing
        await said(workers[-1], "worker started")
        for worker in workers:
            worker.send(signal.SIGTERM)
        assert [await asyncio.to_thread(worker.wait) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    assert sent > 100
    assert sum([await total(factory, tenant.id) for tenant in tenants]) == sent
    assert await redis.keys("*") == []


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
        await said(worker, "worker started")
        worker.send(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait) == 0
    assert answered >= 20 * SERVER_KILLS
    assert await total(factory, person.tenant.id) == answered
    assert await redis.hlen(PENDING_KEY) == 0
