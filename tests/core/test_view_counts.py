"""Views of projects: each counted once, on its way to PostgreSQL, without a write in the request."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from httpx import ASGITransport, AsyncClient
from starlette.types import Message, Receive, Scope, Send

from app.config import Settings
from app.core.redis import RedisGateway
from app.core.view_counts import BATCH, BATCH_KEY, MOST_WAITING, PENDING_KEY, SENT_KEY, ViewCounter
from app.models import Role
from app.services.container import Services
from deploy.local.memory import free_port
from tests.factories import Factory, Person
from tests.faults.support import HASTY, Valkey, changed, eventually, proxy_to, running, valkey
from tests.jobs.support import add_views, flush


@pytest.fixture(scope="module")
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
async def viewed(settings: Settings, own_valkey: Valkey) -> AsyncIterator[tuple[AsyncClient, Services]]:
    """An application whose views nobody else carries on."""
    await own_valkey.run("FLUSHALL")
    async with running(changed(settings, redis_url=own_valkey.url)) as (app, client):
        yield client, app.state.services


@pytest.fixture
async def person(factory: Factory) -> Person:
    return await factory.person()


async def pending(server: Valkey) -> dict[bytes, int]:
    found = await server.run("HGETALL", PENDING_KEY)
    return {field: int(count) for field, count in (found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True))}


async def wait_for_pending(server: Valkey, views: int) -> dict[bytes, int]:
    """Wait until that many views have arrived. They travel without an answer, so they may be a moment late."""

    async def arrived() -> bool:
        return sum((await pending(server)).values()) >= views

    await eventually(arrived)
    return await pending(server)


async def stored(factory: Factory, project_id: object) -> tuple[int, int, bool]:
    """Return the view count, the version, and whether the row was ever touched, in PostgreSQL."""
    (row,) = await factory.run("SELECT view_count, version, updated_at = created_at FROM projects WHERE id = :id", id=project_id)
    return row[0], row[1], row[2]


async def view(client: AsyncClient, person: Person, project_id: object, times: int = 1) -> None:
    for _ in range(times):
        assert (await client.get(f"/api/v1/projects/{project_id}", headers=person.headers)).status_code == 200


async def flush_all(services: Services, factory: Factory) -> None:
    """Carry on all that is there; the first flush may find a batch from before."""
    for _ in range(2):
        await flush(services)
    await add_views(services, factory)


async def test_each_successful_read_counts_one_view_in_redis_and_none_in_postgresql(
    viewed: tuple[AsyncClient, Services], factory: Factory, own_valkey: Valkey, person: Person
) -> None:
    client, _ = viewed
    one, other = [await factory.project(person.tenant) for _ in range(2)]
    await view(client, person, one.id, 7)
    await view(client, person, other.id, 2)
    found = await wait_for_pending(own_valkey, 9)
    assert found == {f"{person.tenant.id}:{one.id}".encode(): 7, f"{person.tenant.id}:{other.id}".encode(): 2}
    assert await stored(factory, one.id) == (0, 1, True)


async def test_the_command_is_in_the_socket_before_the_answer_is(settings: Settings, factory: Factory, own_valkey: Valkey, person: Person) -> None:
    """It is sent without being waited for, so that no process that dies after an answer takes the view with it."""
    await own_valkey.run("FLUSHALL")
    projects = [await factory.project(person.tenant) for _ in range(8)]
    unsent: dict[str, bool] = {}
    async with running(changed(settings, redis_url=own_valkey.url)) as (app, _):
        pipeline = app.state.services.redis._pipeline

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            async def look(message: Message) -> None:
                project_id = scope["path"].rpartition("/")[2]
                unsent.setdefault(project_id, any(project_id.encode() in command for command in pipeline._connection._unsent))
                await send(message)

            await app(scope, receive, look)

        async with AsyncClient(transport=ASGITransport(watched), base_url="http://testserver") as client:
            await asyncio.gather(*(view(client, person, project.id) for project in projects))
            assert unsent == {str(project.id): False for project in projects}
            assert sum((await wait_for_pending(own_valkey, len(projects))).values()) == len(projects)


async def test_what_is_not_shown_is_not_counted(viewed: tuple[AsyncClient, Services], factory: Factory, own_valkey: Valkey, person: Person) -> None:
    client, _ = viewed
    project = await factory.project(person.tenant)
    deleted = await factory.project(person.tenant)
    foreign = await factory.project(await factory.tenant())
    assert (await client.delete(f"/api/v1/projects/{deleted.id}", headers=person.headers)).status_code == 204
    tries = [
        (f"/api/v1/projects/{foreign.id}", person.headers, 404),
        (f"/api/v1/projects/{deleted.id}", person.headers, 404),
        (f"/api/v1/projects/{uuid4()}", person.headers, 404),
        ("/api/v1/projects/nonsense", person.headers, 422),
        (f"/api/v1/projects/{project.id}", {"X-Tenant-Slug": person.tenant.slug}, 401),
        (f"/api/v1/projects/{project.id}", (await factory.person()).headers, 404),
        (f"/api/v1/projects/{project.id}", {**(await factory.person()).headers, "X-Tenant-Slug": person.tenant.slug}, 403),
    ]
    for path, headers, status in tries:
        assert (await client.get(path, headers=headers)).status_code == status
    # Neither does a list count, nor a change.
    assert (await client.get("/api/v1/projects", headers=person.headers)).status_code == 200
    assert (await client.patch(f"/api/v1/projects/{project.id}", headers=person.headers, json={"name": "New"})).status_code == 200
    await view(client, person, project.id)
    assert await wait_for_pending(own_valkey, 1) == {f"{person.tenant.id}:{project.id}".encode(): 1}


async def test_a_view_by_any_role_counts(viewed: tuple[AsyncClient, Services], factory: Factory, own_valkey: Valkey) -> None:
    client, _ = viewed
    tenant = await factory.tenant()
    project = await factory.project(tenant)
    for role in Role:
        await view(client, await factory.person(tenant, role), project.id)
    assert sum((await wait_for_pending(own_valkey, 3)).values()) == 3


async def test_a_flush_adds_exactly_what_was_counted_and_touches_nothing_else(
    viewed: tuple[AsyncClient, Services], factory: Factory, own_valkey: Valkey, person: Person
) -> None:
    client, services = viewed
    project = await factory.project(person.tenant, view_count=100)
    await view(client, person, project.id, 5)
    await wait_for_pending(own_valkey, 5)
    await flush_all(services, factory)
    assert await stored(factory, project.id) == (105, 1, True)
    await flush_all(services, factory)
    assert await stored(factory, project.id) == (105, 1, True)
    assert (await client.get(f"/api/v1/projects/{project.id}", headers=person.headers)).json()["view_count"] == 105
    # That was a view too; the next test forgets all that is there, and must not be overtaken by it.
    await wait_for_pending(own_valkey, 1)


async def test_while_redis_is_away_views_wait_and_then_arrive(settings: Settings, factory: Factory, own_valkey: Valkey, person: Person) -> None:
    await own_valkey.run("FLUSHALL")
    project = await factory.project(person.tenant)
    async with running(changed(settings, redis_url=own_valkey.url)) as (_, client):
        own_valkey.stop()
        await view(client, person, project.id, 20)
        own_valkey.start()
        assert await wait_for_pending(own_valkey, 20) == {f"{person.tenant.id}:{project.id}".encode(): 20}


async def test_while_redis_hangs_views_are_counted_once(settings: Settings, factory: Factory, own_valkey: Valkey, person: Person) -> None:
    """What was sent before the hang was noticed arrives late; what was not sent waits; nothing does both."""
    await own_valkey.run("FLUSHALL")
    project = await factory.project(person.tenant)
    async with running(changed(settings, redis_url=own_valkey.url, redis_timeout=HASTY)) as (app, client):
        services: Services = app.state.services
        total = 0
        for _ in range(2):
            await view(client, person, project.id, 10)
            own_valkey.freeze()
            await view(client, person, project.id, 10)
            own_valkey.thaw()
            total += 20

            async def back() -> bool:
                return not services.redis.is_away

            await eventually(back)
        assert await wait_for_pending(own_valkey, total) == {f"{person.tenant.id}:{project.id}".encode(): total}


async def test_a_view_whose_answer_was_lost_is_not_counted_twice(settings: Settings, factory: Factory, own_valkey: Valkey, person: Person) -> None:
    await own_valkey.run("FLUSHALL")
    project = await factory.project(person.tenant)
    async with proxy_to(own_valkey.url) as (proxy, url), running(changed(settings, redis_url=url)) as (app, client):
        services: Services = app.state.services
        await view(client, person, project.id)
        await wait_for_pending(own_valkey, 1)
        proxy.lose_answer_to(b"HINCRBY")
        await view(client, person, project.id)

        async def is_noticed() -> bool:
            return services.redis.is_away

        await eventually(is_noticed)
        await wait_until_back(services.redis)
        await view(client, person, project.id)
        assert await wait_for_pending(own_valkey, 3) == {f"{person.tenant.id}:{project.id}".encode(): 3}


@asynccontextmanager
async def counting(url: str) -> AsyncIterator[tuple[RedisGateway, ViewCounter]]:
    """A counter by itself, for which Redis is away."""
    gateway = RedisGateway(url, timeout=2.0, max_connections=5)
    counter = ViewCounter(gateway)
    gateway.failed(ConnectionError())
    try:
        yield gateway, counter
    finally:
        await gateway.close()


async def waits(counter: ViewCounter, fields: int, views: int) -> None:
    """Count views of as many projects; no server is asked, because Redis is away."""
    for number in range(fields):
        for _ in range(views):
            await counter.count(UUID(int=number), UUID(int=number))


async def wait_until_back(gateway: RedisGateway) -> None:
    async def back() -> bool:
        return not gateway.is_away

    await eventually(back)


async def test_as_many_as_can_wait_arrive_once_when_redis_is_back(own_valkey: Valkey) -> None:
    await own_valkey.run("FLUSHALL")
    await own_valkey.run("CONFIG", "RESETSTAT")
    async with counting(own_valkey.url) as (gateway, counter):
        await waits(counter, MOST_WAITING, 2)
        await wait_until_back(gateway)
        assert set((await pending(own_valkey)).values()) == {2}
        assert await own_valkey.run("HLEN", PENDING_KEY) == MOST_WAITING
        # Sent one by one, they would keep the breaker open for a quarter of a minute.
        assert int((await own_valkey.run("INFO", "commandstats"))["cmdstat_eval"]["calls"]) == MOST_WAITING / BATCH


async def test_what_was_cut_off_while_it_was_sent_is_not_counted_twice(own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis has taken it, and its answer never came: that is lost rather than doubled, and the others arrive."""
    await own_valkey.run("FLUSHALL")
    monkeypatch.setattr("app.core.redis.CATCH_UP_SECONDS", 0.3)
    async with counting(own_valkey.url) as (gateway, counter):
        await waits(counter, 5 * BATCH, 3)
        send = gateway.client.eval

        async def cut_off(*arguments: Any) -> Any:
            monkeypatch.setattr(gateway.client, "eval", send)
            await send(*arguments)
            await asyncio.sleep(60)

        monkeypatch.setattr(gateway.client, "eval", cut_off)
        await wait_until_back(gateway)
        found = await pending(own_valkey)
    assert (len(found), set(found.values())) == (5 * BATCH, {3})


async def test_what_waited_and_whose_answer_was_lost_is_not_counted_twice(own_valkey: Valkey) -> None:
    await own_valkey.run("FLUSHALL")
    async with proxy_to(own_valkey.url) as (proxy, url), counting(url) as (gateway, counter):
        await waits(counter, 10, 3)
        proxy.lose_answer_to(b"EVAL")
        await wait_until_back(gateway)
        assert proxy.has_lost_it
        found = await pending(own_valkey)
    assert (len(found), set(found.values())) == (10, {3})


async def test_what_waits_is_sent_when_the_process_stops(settings: Settings, factory: Factory, own_valkey: Valkey, person: Person) -> None:
    await own_valkey.run("FLUSHALL")
    project = await factory.project(person.tenant)
    async with running(changed(settings, redis_url=own_valkey.url)) as (app, client):
        services: Services = app.state.services
        await view(client, person, project.id)
        services.views._waiting[f"{person.tenant.id}:{project.id}"] += 4
    assert sum((await wait_for_pending(own_valkey, 5)).values()) == 5


async def test_a_redis_that_is_a_replica_for_a_while_loses_no_view(settings: Settings, own_valkey: Valkey, factory: Factory) -> None:
    """As in a failover: PING is answered, writes are refused, and on a connection without replies nobody hears of it."""
    person = await factory.person()
    project = await factory.project(person.tenant)
    async with running(changed(settings, redis_url=own_valkey.url)) as (app, client):
        services: Services = app.state.services
        await view(client, person, project.id, 5)
        await own_valkey.run("REPLICAOF", "127.0.0.1", free_port())
        for _ in range(4):
            await view(client, person, project.id, 5)
            await asyncio.sleep(0.6)
        await own_valkey.run("REPLICAOF", "NO", "ONE")
        await view(client, person, project.id, 5)

        async def back() -> bool:
            return not services.redis.is_away

        await eventually(back)
        await view(client, person, project.id, 1)
        await flush_all(services, factory)
    assert (await stored(factory, project.id))[0] == 31


async def test_a_view_after_a_restart_of_redis_is_not_lost(settings: Settings, own_valkey: Valkey, factory: Factory) -> None:
    person = await factory.person()
    project = await factory.project(person.tenant)
    async with running(changed(settings, redis_url=own_valkey.url)) as (app, client):
        services: Services = app.state.services
        await view(client, person, project.id, 5)
        await flush_all(services, factory)
        for _ in range(3):
            own_valkey.stop()
            own_valkey.start()
            await asyncio.sleep(0.05)
            await view(client, person, project.id, 1)

            async def back() -> bool:
                return not services.redis.is_away

            await eventually(back)
            await flush_all(services, factory)
    assert (await stored(factory, project.id))[0] == 8


def test_all_keys_share_a_hash_tag() -> None:
    assert PENDING_KEY.startswith("{views}:")
    assert BATCH_KEY.startswith("{views}:")
    assert SENT_KEY.startswith("{views}:")
