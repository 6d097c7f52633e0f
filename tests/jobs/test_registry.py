"""What a job is given to work with: its own tenant's rows, or no tenant's."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select, text

from app.database import Database
from app.jobs.registry import TENANT_JOBS, WORLDWIDE_JOBS, AlreadyDone, GiveUp, TenantJob, WorldwideJob, tenant_job, worldwide_job
from app.models import Project, Tenant
from app.services.container import Services
from app.utils.json import to_json
from tests.factories import Factory
from tests.jobs.support import add, dispatcher_of, waiting


@pytest.fixture
async def kinds() -> AsyncIterator[None]:
    """Kinds that a test registers are forgotten after it."""
    known = {*TENANT_JOBS, *WORLDWIDE_JOBS}
    yield
    for kind in {*TENANT_JOBS, *WORLDWIDE_JOBS} - known:
        TENANT_JOBS.pop(kind, None)
        WORLDWIDE_JOBS.pop(kind, None)


async def visible(job: TenantJob | WorldwideJob) -> set[Any]:
    """The tenants whose projects a job can see, by a query that names none."""
    async with job.transaction() as session:
        return set(await session.scalars(text("SELECT tenant_id FROM projects")))


@pytest.mark.usefixtures("kinds")
async def test_a_job_about_a_tenant_sees_that_tenants_rows_alone(services: Services, factory: Factory) -> None:
    own, other = [await factory.project(await factory.tenant()) for _ in range(2)]
    seen: list[Any] = []

    @tenant_job("test_look")
    async def look(job: TenantJob, payload: dict[str, Any]) -> None:
        seen.append((await visible(job), payload, job.tenant_id))
        async with job.transaction() as session:
            # To name the other tenant is of no use.
            assert not (await session.scalars(select(Project).where(Project.tenant_id == other.tenant_id))).all()

    await dispatcher_of(services).dispatch("test_look", 0, to_json({"tenant_id": own.tenant_id, "number": 1}))
    assert seen == [({own.tenant_id}, {"number": 1}, own.tenant_id)]


async def test_a_payload_cannot_put_a_job_into_another_tenants_context(services: Services, factory: Factory) -> None:
    own, other = await factory.tenant(), await factory.tenant()
    await add(services, "test_context", {"tenant_id": other.id}, tenant_id=own.id)
    ((_, payload),) = await waiting(factory, "test_context")
    assert json.loads(payload) == {"tenant_id": str(own.id)}


@pytest.mark.usefixtures("kinds")
async def test_a_job_about_no_tenant_sees_no_tenants_rows_and_can_open_no_tenants_transaction(services: Services, factory: Factory) -> None:
    project = await factory.project(await factory.tenant())
    seen: list[Any] = []

    @worldwide_job("test_look")
    async def look(job: WorldwideJob, payload: dict[str, Any]) -> None:
        seen.append(await visible(job))
        async with job.transaction() as session:
            assert await session.get(Tenant, project.tenant_id) is not None
        with pytest.raises(TypeError):
            job.transaction(project.tenant_id)  # type: ignore[call-arg]  # what it must not take
        public = [getattr(job, name) for name in dir(job) if not name.startswith("_")]
        assert not [part for part in (*public, *vars(job.tools).values()) if isinstance(part, Database)]

    await dispatcher_of(services).dispatch("test_look", 0, to_json({"tenant_id": None}))
    assert seen == [set()]


@pytest.mark.usefixtures("kinds")
@pytest.mark.parametrize("payload", [b"", b"\xff", b"[]", b"{}", b'{"tenant_id": null}', b'{"tenant_id": "x"}', None])
async def test_a_tenants_job_without_a_tenant_fails_for_good(services: Services, payload: bytes | None) -> None:
    @tenant_job("test_never")
    async def never(job: TenantJob, payload: dict[str, Any]) -> None:
        pytest.fail("it was done all the same")

    with pytest.raises(GiveUp):
        await dispatcher_of(services).dispatch("test_never", 0, payload)


@pytest.mark.usefixtures("kinds")
async def test_a_worldwide_job_with_a_tenant_and_one_of_an_unknown_kind_fail_for_good(services: Services) -> None:
    @worldwide_job("test_never")
    async def never(job: WorldwideJob, payload: dict[str, Any]) -> None:
        pytest.fail("it was done all the same")

    for kind in ("test_never", "test_unknown"):
        with pytest.raises(GiveUp):
            await dispatcher_of(services).dispatch(kind, 0, to_json({"tenant_id": uuid4()}))


@pytest.mark.usefixtures("kinds")
async def test_what_is_done_in_the_final_transaction_is_done_once(services: Services, factory: Factory) -> None:
    """Also by a worker that was held up with it, long after another has done it."""
    project = await factory.project(await factory.tenant())

    @tenant_job("test_rename")
    async def rename(job: TenantJob, payload: dict[str, Any]) -> None:
        async with job.final_transaction() as session:
            found = (await session.scalars(select(Project).where(Project.tenant_id == job.tenant_id))).one()
            found.name += "!"

    await add(services, "test_rename", {}, tenant_id=project.tenant_id)
    ((number, payload),) = await waiting(factory, "test_rename")
    dispatcher = dispatcher_of(services)
    outcomes = await asyncio.gather(*(dispatcher.dispatch("test_rename", number, payload) for _ in range(4)), return_exceptions=True)
    assert [outcome for outcome in outcomes if outcome is None] == [None]
    with pytest.raises(AlreadyDone):
        await dispatcher.dispatch("test_rename", number, payload)
    assert await factory.run("SELECT name FROM projects WHERE id = :id", id=project.id) == [(f"{project.name}!",)]
    assert await waiting(factory, "test_rename") == []


@pytest.mark.usefixtures("kinds")
async def test_a_final_transaction_that_fails_leaves_the_job_in_the_queue(services: Services, factory: Factory) -> None:
    tenant = await factory.tenant()

    @tenant_job("test_break")
    async def break_off(job: TenantJob, payload: dict[str, Any]) -> None:
        async with job.final_transaction():
            raise ZeroDivisionError

    await add(services, "test_break", {}, tenant_id=tenant.id)
    ((number, payload),) = await waiting(factory, "test_break")
    with pytest.raises(ZeroDivisionError):
        await dispatcher_of(services).dispatch("test_break", number, payload)
    assert await waiting(factory, "test_break") == [(number, payload)]
