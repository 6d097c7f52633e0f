"""Carrying views to PostgreSQL: exactly once, whoever stops in between."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from uuid import UUID, uuid4

import pytest
from redis.asyncio import Redis

from app.config import Settings
from app.core.redis import RedisAway
from app.core.view_counts import BATCH_KEY, PENDING_KEY
from app.database_faults import DatabaseFault
from app.jobs.view_counts import flush_view_counts
from app.models import Project
from app.services.container import Services
from tests.factories import Factory
from tests.faults.support import Valkey, changed, proxy_to, valkey


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
async def services(settings: Settings, own_valkey: Valkey) -> AsyncIterator[Services]:
    """The parts of a worker."""
    made = Services.from_settings(changed(settings, redis_url=own_valkey.url))
    yield made
    await made.close()


async def count(redis: "Redis", tenant_id: UUID, project_id: UUID, views: int) -> None:
    await redis.hincrby(PENDING_KEY, f"{tenant_id}:{project_id}", views)


async def flush(services: Services) -> int:
    return await flush_view_counts(services.database, services.redis)


async def views_of(factory: Factory, *projects: Project) -> list[int]:
    return [(await factory.run("SELECT view_count FROM projects WHERE id = :id", id=project.id))[0][0] for project in projects]


async def test_nothing_pending_is_nothing_to_do(services: Services, redis: "Redis") -> None:
    assert await flush(services) == 0
    assert await redis.keys("*") == []


async def test_one_batch_carries_the_views_of_many_tenants(services: Services, redis: "Redis", factory: Factory) -> None:
    projects = [await factory.project(await factory.tenant()) for _ in range(3)]
    projects.append(await factory.project(await factory.tenant()))
    for views, project in enumerate(projects[:3], start=1):
        await count(redis, project.tenant_id, project.id, views)
    assert await flush(services) == 6
    assert await views_of(factory, *projects) == [1, 2, 3, 0]
    assert await redis.keys("*") == []


async def test_views_of_a_vanished_tenant_are_dropped_without_stopping_the_rest(services: Services, redis: "Redis", factory: Factory) -> None:
    before, after = [await factory.project(await factory.tenant()) for _ in range(2)]
    await count(redis, before.tenant_id, before.id, 1)
    await count(redis, uuid4(), uuid4(), 5)
    await count(redis, after.tenant_id, after.id, 2)
    assert await flush(services) == 3
    assert await views_of(factory, before, after) == [1, 2]
    assert await redis.keys("*") == []


async def test_views_of_a_vanished_project_are_dropped_without_stopping_the_rest(services: Services, redis: "Redis", factory: Factory) -> None:
    project = await factory.project(await factory.tenant())
    await count(redis, project.tenant_id, uuid4(), 5)
    await count(redis, project.tenant_id, project.id, 2)
    await flush(services)
    assert await views_of(factory, project) == [2]


async def test_a_field_cannot_reach_into_another_tenant(services: Services, redis: "Redis", factory: Factory) -> None:
    project, tenant = await factory.project(await factory.tenant()), await factory.tenant()
    await count(redis, tenant.id, project.id, 5)
    await flush(services)
    assert await views_of(factory, project) == [0]


async def test_views_that_come_during_a_flush_wait_for_the_next(services: Services, redis: "Redis", factory: Factory) -> None:
    project = await factory.project(await factory.tenant())
    await count(redis, project.tenant_id, project.id, 3)
    add = services.database.transaction

    def transaction(tenant_id: UUID | None) -> object:
        services.database.transaction = add  # type: ignore[method-assign]  # once is enough
        redis_later.append(asyncio.ensure_future(count(redis, project.tenant_id, project.id, 4)))
        return add(tenant_id)

    redis_later: list[asyncio.Future[None]] = []
    services.database.transaction = transaction  # type: ignore[method-assign,assignment]  # to be there at that moment
    assert await flush(services) == 3
    await asyncio.gather(*redis_later)
    assert await flush(services) == 4
    assert await views_of(factory, project) == [7]


async def test_a_batch_that_was_added_and_not_dropped_is_not_added_again(services: Services, redis: "Redis", factory: Factory) -> None:
    """As when the worker is killed, or Redis goes away, after the COMMIT."""
    one, two = [await factory.project(await factory.tenant()) for _ in range(2)]
    for project in (one, two):
        await count(redis, project.tenant_id, project.id, 2)
    fields = await redis.hgetall(PENDING_KEY)
    assert await flush(services) == 4
    batch = (await factory.run("SELECT id FROM view_count_batches WHERE tenant_id = :id", id=one.tenant_id))[0][0]
    # The second tenant's part was not done yet.
    await factory.run("DELETE FROM view_count_batches WHERE tenant_id = :id", id=two.tenant_id)
    await factory.run("UPDATE projects SET view_count = 0 WHERE id = :id", id=two.id)
    await redis.hset(BATCH_KEY, mapping={**fields, b"batch": str(batch)})  # type: ignore[dict-item]  # bytes, as they were read
    assert await flush(services) == 2
    assert await views_of(factory, one, two) == [2, 2]
    assert await redis.keys("*") == []


@pytest.mark.parametrize("workers", [2, 8])
async def test_several_workers_at_once_add_each_view_once(settings: Settings, own_valkey: Valkey, redis: "Redis", factory: Factory, workers: int) -> None:
    projects = [await factory.project(await factory.tenant()) for _ in range(5)]
    made = [Services.from_settings(changed(settings, redis_url=own_valkey.url, database_pool_size=1)) for _ in range(workers)]
    for _ in range(6):
        for project in projects:
            await count(redis, project.tenant_id, project.id, 3)
        await asyncio.gather(*(flush(services) for services in made))
    await flush(made[0])
    assert await views_of(factory, *projects) == [18] * 5
    await asyncio.gather(*(services.close() for services in made))


async def test_a_fault_of_postgresql_loses_nothing(settings: Settings, own_valkey: Valkey, redis: "Redis", factory: Factory) -> None:
    project = await factory.project(await factory.tenant())
    async with proxy_to(settings.database_url.get_secret_value()) as (proxy, url):
        services = Services.from_settings(changed(settings, redis_url=own_valkey.url, database_url=url))
        await count(redis, project.tenant_id, project.id, 1)
        assert await flush(services) == 1
        await count(redis, project.tenant_id, project.id, 2)
        await proxy.refuse()
        for _ in range(3):
            with pytest.raises(DatabaseFault):
                await flush(services)
        await proxy.open()
        assert await flush(services) == 2
        assert await views_of(factory, project) == [3]
        await services.close()


async def test_a_fault_of_redis_after_the_commit_doubles_nothing(settings: Settings, own_valkey: Valkey, redis: "Redis", factory: Factory) -> None:
    project = await factory.project(await factory.tenant())
    async with proxy_to(own_valkey.url) as (proxy, url):
        services = Services.from_settings(changed(settings, redis_url=url))
        await count(redis, project.tenant_id, project.id, 2)
        begin = services.database.transaction

        def cut_meanwhile(tenant_id: UUID | None) -> object:
            proxy.cut()
            return begin(tenant_id)

        services.database.transaction = cut_meanwhile  # type: ignore[method-assign,assignment]  # to be there at that moment
        await proxy.refuse()
        await proxy.open()
        with suppress(RedisAway):
            await flush(services)
        await services.close()
    other = Services.from_settings(changed(settings, redis_url=own_valkey.url))
    await flush(other)
    await other.close()
    assert await views_of(factory, project) == [2]
    assert await redis.keys("*") == []


async def test_the_records_of_batches_do_not_pile_up(services: Services, redis: "Redis", factory: Factory) -> None:
    project = await factory.project(await factory.tenant())
    for _ in range(10):
        await count(redis, project.tenant_id, project.id, 1)
        await flush(services)
    (row,) = await factory.run("SELECT count(*) FROM view_count_batches WHERE tenant_id = :id", id=project.tenant_id)
    assert row[0] <= 10
    assert await views_of(factory, project) == [10]


async def test_a_worker_that_was_held_up_adds_nothing_a_second_time(settings: Settings, own_valkey: Valkey, redis: "Redis", factory: Factory) -> None:
    """It holds a batch that others have finished since, and one more after it: the record of the first is gone by then."""
    project = await factory.project(await factory.tenant())
    slow, quick = [Services.from_settings(changed(settings, redis_url=own_valkey.url)) for _ in range(2)]
    begin, reached, go_on = slow.database.transaction, asyncio.Event(), asyncio.Event()

    class Late:
        """A transaction that begins late, as after a SIGSTOP, a stalled disk or a slow network."""

        def __init__(self, tenant_id: UUID | None) -> None:
            self._manager = begin(tenant_id)

        async def __aenter__(self) -> object:
            reached.set()
            await go_on.wait()
            return await self._manager.__aenter__()

        async def __aexit__(self, *error: object) -> object:
            return await self._manager.__aexit__(*error)  # type: ignore[arg-type]  # passed on as it came

    slow.database.transaction = Late  # type: ignore[method-assign,assignment]  # to be there at that moment
    await count(redis, project.tenant_id, project.id, 3)
    held_up = asyncio.create_task(flush(slow))
    await reached.wait()
    assert await flush(quick) == 3
    await count(redis, project.tenant_id, project.id, 4)
    assert await flush(quick) == 4
    go_on.set()
    await held_up
    await slow.close()
    await quick.close()
    assert await views_of(factory, project) == [7]
