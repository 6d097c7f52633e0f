"""What a warm authenticated read costs: no query for tenant or user, one call to Redis, three messages to PostgreSQL."""

import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, cast

import asyncpg
import hiredis
import pytest
from httpx import AsyncClient

from app.config import Settings
from app.models import Project
from app.services.container import Services
from tests.factories import Factory, Person
from tests.faults.support import Proxy, Valkey, changed, eventually, proxy_to, running, valkey

ROUNDS = 10


@dataclass
class Watched:
    """An application whose every message to both servers is seen."""

    client: AsyncClient
    services: Services
    postgres: Proxy
    redis: Proxy
    valkey: Valkey
    person: Person
    project: Project
    queries: list[str]

    async def read(self, path: str) -> None:
        answer = await self.client.get(path, headers=self.person.headers)
        assert answer.status_code == 200, answer.text


def postgres_messages(chunks: list[bytes]) -> str:
    """Return the types of the frontend's messages, a letter each (PostgreSQL's manual, section 54.7)."""
    data = b"".join(chunks)
    types = ""
    while data:
        (length,) = struct.unpack_from("!I", data, 1)
        types += chr(data[0])
        data = data[1 + length :]
    return types


def redis_commands(chunks: list[bytes]) -> list[bytes]:
    """Return the names of the commands, in order."""
    reader = hiredis.Reader()
    reader.feed(b"".join(chunks))
    commands: list[bytes] = []
    while isinstance(command := cast("Any", reader.gets()), list):
        commands.append(command[0].upper())
    return commands


@pytest.fixture(scope="module")
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
async def watched(settings: Settings, factory: Factory, own_valkey: Valkey) -> AsyncIterator[Watched]:
    person = await factory.person()
    project = await factory.project(person.tenant)
    queries: list[str] = []

    def remember(query: asyncpg.connection.LoggedQuery) -> None:
        queries.append(query.query)

    async with proxy_to(settings.database_url.get_secret_value()) as (postgres, database_url), proxy_to(own_valkey.url) as (redis, redis_url):
        own = changed(settings, database_url=database_url, redis_url=redis_url, database_pool_size=1, database_max_overflow=0)
        async with running(own) as (app, client):
            made = Watched(client, app.state.services, postgres, redis, own_valkey, person, project, queries)
            for path in ("/api/v1/projects", f"/api/v1/projects/{project.id}", "/api/v1/auth/me"):
                for _ in range(3):
                    await made.read(path)
            pooled = await made.services.database.engine.raw_connection()
            cast("asyncpg.Connection[asyncpg.Record]", pooled.driver_connection).add_query_logger(remember)
            pooled.close()
            for proxy in (postgres, redis):
                proxy.sent.clear()
            queries.clear()
            yield made


@pytest.mark.parametrize("path", ["/api/v1/projects?page_size=20", "/api/v1/projects/{id}"])
async def test_a_warm_read_sends_three_messages_to_postgresql(watched: Watched, path: str) -> None:
    path = path.format(id=watched.project.id)
    await watched.read(path)  # the first of its kind is prepared
    watched.postgres.sent.clear()
    for _ in range(ROUNDS):
        await watched.read(path)
    # Query; Bind, Execute, Sync; Query. Each of the three is answered before the next is sent.
    assert postgres_messages(watched.postgres.sent) == "QBESQ" * ROUNDS
    assert len(watched.postgres.sent) == 3 * ROUNDS


@pytest.mark.parametrize("path", ["/api/v1/projects?page_size=20", "/api/v1/projects/{id}"])
async def test_a_warm_read_makes_no_query_for_tenant_or_user(watched: Watched, path: str) -> None:
    for _ in range(ROUNDS):
        await watched.read(path.format(id=watched.project.id))

    async def all_logged() -> bool:
        return len(watched.queries) >= 3 * ROUNDS

    await eventually(all_logged)
    assert len(watched.queries) == 3 * ROUNDS
    for opening, query, end in zip(watched.queries[::3], watched.queries[1::3], watched.queries[2::3], strict=True):
        assert opening == f"BEGIN READ ONLY; SET LOCAL app.tenant_id = '{watched.person.tenant.id}'"
        assert "FROM projects" in query
        assert "tenants" not in query
        assert "users" not in query
        assert end == "COMMIT"


async def test_who_the_caller_is_needs_no_query_at_all(watched: Watched) -> None:
    for path in ("/api/v1/auth/me", "/api/v1/tenant"):
        for _ in range(ROUNDS):
            await watched.read(path)
    assert watched.postgres.sent == []


async def test_a_warm_read_makes_one_call_to_redis(watched: Watched) -> None:
    for _ in range(ROUNDS):
        await watched.read("/api/v1/projects")
    assert redis_commands(watched.redis.sent) == [b"EVALSHA"] * ROUNDS


async def test_a_warm_read_of_one_project_adds_one_command(watched: Watched) -> None:
    for _ in range(ROUNDS):
        await watched.read(f"/api/v1/projects/{watched.project.id}")

    async def all_passed_on() -> bool:
        return len(redis_commands(watched.redis.sent)) >= 2 * ROUNDS

    await eventually(all_passed_on)
    commands = redis_commands(watched.redis.sent)
    assert sorted(commands) == [b"EVALSHA"] * ROUNDS + [b"HINCRBY"] * ROUNDS


async def test_redis_counts_the_same(watched: Watched) -> None:
    async def calls() -> dict[str, int]:
        stats = cast("dict[str, dict[str, int]]", await watched.valkey.run("INFO", "commandstats"))
        return {name.removeprefix("cmdstat_"): row["calls"] for name, row in stats.items()}

    before = await calls()
    for _ in range(ROUNDS):
        await watched.read("/api/v1/projects")
    after = await calls()
    grown = {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}
    # What the script itself calls, and the asking, are counted too.
    assert grown.pop("evalsha") == ROUNDS
    assert set(grown) <= {"time", "mget", "set", "info", "auth", "hello", "client|setinfo"}


async def test_a_read_takes_one_connection_from_the_pool_and_gives_it_back(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = watched.services.database.engine.sync_engine.pool
    take, taken = pool._do_get, []

    def count() -> Any:
        taken.append(take())
        return taken[-1]

    # Everything that leaves the pool passes here, inside of SQLAlchemy's proxy or not.
    monkeypatch.setattr(pool, "_do_get", count)
    await watched.read("/api/v1/projects")
    assert len(taken) == 1
    async with watched.services.database.transaction(None):
        assert len(taken) == 2
    assert pool.checkedout() == 0  # type: ignore[attr-defined]  # a QueuePool


def test_messages_are_told_apart() -> None:
    simple, sync = b"Q" + struct.pack("!I", 4 + 7) + b"COMMIT\0", b"S" + struct.pack("!I", 4)
    assert postgres_messages([simple[:3], simple[3:] + sync]) == "QS"
    assert redis_commands([b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*1\r\n$4\r\nPING\r\n"]) == [b"GET", b"PING"]
