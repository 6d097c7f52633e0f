"""The API as real processes: stopped, drained, several at once, and a Redis that hangs before them."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.config import Settings
from app.models import Role
from tests.factories import Factory
from tests.faults.support import PATIENCE, ServerProcess, Valkey, environment_of, eventually, server_process, valkey


@pytest.fixture(scope="module")
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="module")
def pair(settings: Settings, own_valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Two servers behind one load balancer, as it were."""
    folder = tmp_path_factory.mktemp("servers")
    environment = environment_of(settings, redis_url=own_valkey.url)
    with server_process(folder / "one", environment) as one, server_process(folder / "other", environment) as other:
        yield one, other


async def status_of(server: ServerProcess, path: str) -> int:
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE) as client:
        return (await client.get(path)).status_code


async def test_several_servers_admit_exactly_the_burst_together(pair: tuple[ServerProcess, ServerProcess], factory: Factory) -> None:
    tenant = await factory.tenant(rate_limit_per_minute=1, rate_limit_burst=70)
    people = [await factory.person(tenant, Role.VIEWER) for _ in range(4)]
    async with httpx.AsyncClient(timeout=PATIENCE, limits=httpx.Limits(max_connections=20)) as client:
        urls = [f"{server.url}/api/v1/projects" for server in pair]
        answers = await asyncio.gather(*(client.get(urls[number % 2], headers=people[number % 4].headers) for number in range(120)))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    # One more for each minute that a very slow machine takes.
    assert 70 <= statuses.count(200) <= 71


async def test_what_one_server_changes_the_other_knows(pair: tuple[ServerProcess, ServerProcess], factory: Factory) -> None:
    admin = await factory.person()
    member = await factory.person(admin.tenant, Role.MEMBER)
    one, other = pair
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        for role, status in (("viewer", 403), ("member", 201), ("viewer", 403)):
            for _ in range(3):
                await client.get(f"{other.url}/api/v1/auth/me", headers=member.headers)
            changing = await client.patch(f"{one.url}/api/v1/users/{member.user.id}", headers=admin.headers, json={"role": role})
            assert changing.status_code == 200
            creating = await client.post(f"{other.url}/api/v1/projects", headers=member.headers, json={"name": "x"})
            assert creating.status_code == status


async def test_after_sigterm_a_process_drains_and_ends_in_order(settings: Settings, factory: Factory, tmp_path: Path) -> None:
    person = await factory.person()
    with server_process(tmp_path, environment_of(settings, drain_seconds=2, log_level="INFO")) as server:
        assert await status_of(server, "/health/ready") == 200
        server.send(signal.SIGTERM)

        async def not_ready() -> bool:
            return await status_of(server, "/health/ready") == 503

        await eventually(not_ready)
        # It still serves what reaches it meanwhile.
        assert await status_of(server, "/health/live") == 200
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            created = await client.post(f"{server.url}/api/v1/projects", headers=person.headers, json={"name": "Last"})
        assert created.status_code == 201
        await asyncio.to_thread(server.wait)
        events = [line["event"] for line in server.lines]
        assert "draining" in events
        assert "Application shutdown complete." in events


async def test_a_request_that_is_under_way_at_sigterm_is_answered(settings: Settings, tmp_path: Path, factory: Factory) -> None:
    person = await factory.person()
    with server_process(tmp_path, environment_of(settings, password_hash_rounds=13)) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE) as client:
            body = {"email": "new@example.com", "full_name": "New", "password": "a long passphrase"}
            asking = asyncio.create_task(client.post("/api/v1/users", headers=person.headers, json=body))
            await asyncio.sleep(0.2)
            server.send(signal.SIGTERM)
            assert (await asking).status_code == 201
        await asyncio.to_thread(server.wait)
