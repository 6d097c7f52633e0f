"""Carrying views to PostgreSQL: exactly once, whoever stops in between."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
from redis.asyncio import Redis

from app.config import Settings
from app.core.view_counts import BATCH_KEY, PENDING_KEY
from app.database_faults import DatabaseFault
from app.jobs import view_counts
from app.jobs.purge import PURGE_WORLDWIDE
from app.jobs.registry import AlreadyDone
from app.jobs.view_counts import ADD_VIEWS
from app.models import Project
from app.services.container import Services
from tests.factories import Factory
from tests.faults.support import Valkey, changed, proxy_to
from tests.jobs.support import add_views, dispatcher_of, flush, waiting


@pytest.fixture
async def services(settings: Settings, own_valkey: Valkey) -> AsyncIterator[Services]:
    """The parts of a worker."""
    made = Services.from_settings(changed(settings, redis_url=own_valkey.url))
    yield made
    await made.close()


async def count(redis: "Redis", tenant_id: UUID, project_id: UUID, views: int) -> None:
    await redis.hincrby(PENDING_KEY, f"{tenant_id}:{project_id}", views)


async def carry(services: Services, factory: Factory) -> None:
    """Flush, and do the jobs that this leaves."""
    await flush(services)
    await add_views(services, factory)


async def views_of(factory: Factory, *projects: Project) -> list[int]:
    return [(await factory.run("SELECT view_count FROM projects WHERE id = :id", id=project.id))[0][0] for project in projects]


async def test_nothing_pending_is_nothing_to_do(services: Services, redis: "Redis", factory: Factory) -> None:
    await flush(services)
    assert await redis.keys("*") == []
    assert await waiting(factory, ADD_VIEWS) == []


async def test_one_batch_carries_the_views_of_many_tenants(services: Services, redis: "Redis", factory: Factory) -> None:
    projects = [await factory.project(await factory.tenant()) for _ in range(3)]
    projects.append(await factory.project(await factory.tenant()))
    for views, project in enumerate(projects[:3], start=1):
        await count(redis, project.tenant_id, project.id, views)
    await carry(services, factory)
    assert await views_of(factory, *projects) == [1, 2, 3, 0]
    assert await redis.keys("*") == []


async def test_views_of_a_vanished_tenant_are_dropped_without_stopping_the_rest(services: Services, redis: "Redis", factory: Factory) -> None:
    before, after = [await factory.project(await factory.tenant()) for _ in range(2)]
    await count(redis, before.tenant_id, before.id, 1)
    await count(redis, uuid4(), uuid4(), 5)
    await count(redis, after.tenant_id, after.id, 2)
    await carry(services, factory)
    assert await views_of(factory, before, after) == [1, 2]
    assert await redis.keys("*") == []


async def test_views_of_a_vanished_project_are_dropped_without_stopping_the_rest(services: Services, redis: "Redis", factory: Factory) -> None:
    project = await factory.project(await factory.tenant())
    await count(redis, project.tenant_id, uuid4(), 5)
    await count(redis, project.tenant_id, project.id, 2)
    await carry(services, factory)
    assert await views_of(factory, project) == [2]


async def test_a_field_cannot_reach_into_another_tenant(services: Services, redis: "Redis", factory: Factory) -> None:
    project, tenant = await factory.project(await factory.tenant()), await factory.tenant()
    await count(redis, tenant.id, project.id, 5)
    await carry(services, factory)
    assert await views_of(factory, project) == [0]


async def test_views_that_come_during_a_flush_wait_for_the_next(services: Services, redis: "Redis", factory: Factory) -> None:
    project = await factory.project(await factory.tenant())
    await count(redis, project.tenant_id, project.id, 3)
    begin = services.database.transaction

    def transaction(tenant_id: UUID | None) -> object:
        services.database.transaction = begin  # type: ignore[method-assign]  # once is enough
        redis_later.append(asyncio.ensure_future(count(redis, project.tenant_id, project.id, 4)))
        return begin(tenant_id)

    redis_later: list[asyncio.Future[None]] = []
    services.database.transaction = transaction  # type: ignore[method-assign,assignment]  # to be there at that moment
    await flush(services)
    await asyncio.gather(*redis_later)
    await add_views(services, factory)
    assert await views_of(factory, project) == [3]
    await carry(services, factory)
    assert await views_of(factory, project) == [7]


async def test_a_batch_that_was_enqueued_and_not_dropped_is_not_enqueued_again(services: Services, redis: "Redis", factory: Factory) -> None:
    """As when the worker is killed, or Redis goes away, after the COMMIT; before the jobs are done, and after."""
    projects = [await factory.project(await factory.tenant()) for _ in range(2)]
    for project in projects:
        await count(redis, project.tenant_id, project.id, 2)
    fields = await redis.hgetall(PENDING_KEY)
    await flush(services)
    ((batch,),) = await factory.run("SELECT id FROM view_batches ORDER BY created_at DESC LIMIT 1")
    for _ in range(2):
        await redis.hset(BATCH_KEY, mapping={**fields, b"batch": str(batch)})  # type: ignore[dict-item]  # bytes, as they were read
        await flush(services)
        assert await redis.keys("*") == []
        assert len(await waiting(factory, ADD_VIEWS)) in (2, 0)
        await add_views(services, factory)
        assert await views_of(factory, *projects) == [2, 2]


async def test_a_tenants_views_are_added_once_however_often_the_job_is_done(services: Services, redis: "Redis", factory: Factory) -> None:
    """At once, and after it has been done."""
    project = await factory.project(await factory.tenant())
    await count(redis, project.tenant_id, project.id, 2)
    await flush(services)
    ((number, payload),) = await waiting(factory, ADD_VIEWS)
    dispatcher = dispatcher_of(services)
    at_once = await asyncio.gather(*(dispatcher.dispatch(ADD_VIEWS, number, payload) for _ in range(5)), return_exceptions=True)
    assert sum(outcome is None for outcome in at_once) == 1
    with pytest.raises(AlreadyDone):
        await dispatcher.dispatch(ADD_VIEWS, number, payload)
    assert await views_of(factory, project) == [2]


async def test_a_large_batch_is_cut_into_jobs_of_bounded_size(services: Services, redis: "Redis", factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_counts, "PROJECTS_IN_A_JOB", 2)
    monkeypatch.setattr(view_counts, "JOBS_IN_A_STATEMENT", 2)
    tenants = [await factory.tenant() for _ in range(3)]
    projects = [await factory.project(tenant) for tenant in tenants for _ in range(5)]
    for project in projects:
        await count(redis, project.tenant_id, project.id, 2)
    await flush(services)
    assert len(await waiting(factory, ADD_VIEWS)) == 9
    await add_views(services, factory)
    assert await views_of(factory, *projects) == [2] * 15


@pytest.mark.parametrize("workers", [2, 8])
async def test_several_workers_at_once_add_each_view_once(settings: Settings, own_valkey: Valkey, redis: "Redis", factory: Factory, workers: int) -> None:
    projects = [await factory.project(await factory.tenant()) for _ in range(5)]
    made = [Services.from_settings(changed(settings, redis_url=own_valkey.url, database_pool_size=1)) for _ in range(workers)]
    for _ in range(6):
        for project in projects:
            await count(redis, project.tenant_id, project.id, 3)
        await asyncio.gather(*(flush(services) for services in made))
    await carry(made[0], factory)
    assert await views_of(factory, *projects) == [18] * 5
    await asyncio.gather(*(services.close() for services in made))


async def test_a_fault_of_postgresql_loses_nothing(settings: Settings, own_valkey: Valkey, redis: "Redis", factory: Factory) -> None:
    project = await factory.project(await factory.tenant())
    async with proxy_to(settings.database_url.get_secret_value()) as (proxy, url):
        services = Services.from_settings(changed(settings, redis_url=own_valkey.url, database_url=url))
        await count(redis, project.tenant_id, project.id, 1)
        await carry(services, factory)
        await count(redis, project.tenant_id, project.id, 2)
        await proxy.refuse()
        for _ in range(3):
            with pytest.raises(DatabaseFault):
                await flush(services)
        await proxy.open()
        await flush(services)
        await proxy.refuse()
        with pytest.raises(DatabaseFault):
            await add_views(services, factory)
        await proxy.open()
        await add_views(services, factory)
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
        await flush(services)
        await services.close()
    other = Services.from_settings(changed(settings, redis_url=own_valkey.url))
    await carry(other, factory)
    await other.close()
    assert await views_of(factory, project) == [2]
    assert await redis.keys("*") == []


async def test_a_worker_that_was_held_up_adds_nothing_a_second_time(settings: Settings, own_valkey: Valkey, redis: "Redis", factory: Factory) -> None:
    """It holds a batch that others have finished since, and one more after it."""
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
    await carry(quick, factory)
    await count(redis, project.tenant_id, project.id, 4)
    await carry(quick, factory)
    go_on.set()
    await held_up
    await add_views(quick, factory)
    await slow.close()
    await quick.close()
    assert await views_of(factory, project) == [7]


async def test_the_records_of_batches_do_not_pile_up_and_the_newest_stays(services: Services, redis: "Redis", factory: Factory) -> None:
    """The newest batch may still be in Redis, and Redis away for longer than any time that records are kept for."""
    project = await factory.project(await factory.tenant())
    for _ in range(3):
        await count(redis, project.tenant_id, project.id, 1)
        await carry(services, factory)
    await factory.run("UPDATE view_batches SET created_at = created_at - interval '400 days'")
    ((newest,),) = await factory.run("SELECT id FROM view_batches ORDER BY created_at DESC LIMIT 1")
    await dispatcher_of(services).dispatch(PURGE_WORLDWIDE, 0, b"{}")
    assert await factory.run("SELECT id FROM view_batches") == [(newest,)]
