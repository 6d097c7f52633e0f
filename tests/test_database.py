"""Transactions: committed before the answer, undone on error, read-only for reading, and never on a dead connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast
from uuid import UUID, uuid4

import asyncpg
import pytest
from fastapi import APIRouter, FastAPI
from httpx import AsyncClient
from pydantic import BaseModel
from sqlalchemy import bindparam, select, text, update
from sqlalchemy.pool import QueuePool

from app.api.deps import AsMember, ReadAsViewer
from app.api.retry import ATTEMPTS, RetryingRoute
from app.config import Settings, with_driver
from app.database import Database, Query, UnsafeRole
from app.database_faults import DatabaseBusy, DatabaseFault, DatabaseUnavailable, TransactionConflict
from app.models import Project, Role
from app.services.container import Services
from tests.conftest import clone_database, worker_number
from tests.factories import Factory, Person
from tests.faults.support import changed, eventually, proxy_to, running

NAMES = Query(select(Project.name).where(Project.tenant_id == bindparam("tenant_id")))


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    """A database with a pool of its own."""
    async with pool(settings) as made:
        yield made


@asynccontextmanager
async def pool(settings: Settings, **options: Any) -> AsyncIterator[Database]:
    made = Database(settings.service_url, **options)
    try:
        yield made
    finally:
        await made.close()


async def names(database: Database, tenant_id: UUID) -> list[str]:
    async with database.read(tenant_id) as reader:
        return [row["name"] for row in await reader.fetch(NAMES, tenant_id=tenant_id)]


async def fill(database: Database, connections: int) -> None:
    """Have the pool hold that many idle connections."""
    barrier = asyncio.Barrier(connections)

    async def hold() -> None:
        async with database.read(None):
            await barrier.wait()

    await asyncio.gather(*(hold() for _ in range(connections)))


async def backend_of(database: Database) -> int:
    """Return the process of PostgreSQL that serves the pool's next connection."""
    async with database.read(None) as reader:
        return int(await reader._connection.fetchval("SELECT pg_backend_pid()"))


# ─── Transactions ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_a_block_writes_is_committed_when_it_ends(database: Database, factory: Factory) -> None:
    tenant = await factory.tenant()
    async with database.transaction(tenant.id) as session:
        session.add(Project(tenant_id=tenant.id, name="Kept"))
    assert await names(database, tenant.id) == ["Kept"]


@pytest.mark.parametrize("flushed", [True, False])
async def test_what_a_block_writes_is_undone_when_it_raises(database: Database, factory: Factory, flushed: bool) -> None:
    tenant = await factory.tenant()
    with pytest.raises(ZeroDivisionError):
        async with database.transaction(tenant.id) as session:
            session.add(Project(tenant_id=tenant.id, name="Lost"))
            if flushed:
                await session.flush()
            raise ZeroDivisionError
    assert await names(database, tenant.id) == []


async def test_what_a_block_writes_is_undone_when_it_is_cancelled(settings: Settings, factory: Factory) -> None:
    tenant = await factory.tenant()
    async with pool(settings, pool_size=1, max_overflow=0) as database:
        for _ in range(5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05), database.transaction(tenant.id) as session:
                    session.add(Project(tenant_id=tenant.id, name="Lost"))
                    await session.flush()
                    await session.execute(text("SELECT pg_sleep(5)"))
        assert await names(database, tenant.id) == []


async def test_a_statement_that_failed_unnoticed_fails_the_block(database: Database, factory: Factory) -> None:
    """PostgreSQL answers the COMMIT of a failed transaction with ROLLBACK, and calls it a success."""
    tenant = await factory.tenant()
    with pytest.raises(RuntimeError, match="nothing was committed"):
        async with database.transaction(tenant.id) as session:
            session.add(Project(tenant_id=tenant.id, name="Lost"))
            await session.flush()
            with pytest.raises(Exception, match="division by zero"):
                await session.execute(text("SELECT 1 / 0"))
    assert await names(database, tenant.id) == []


@pytest.mark.parametrize("statement", ["INSERT INTO tenants (id, slug, name) VALUES (gen_random_uuid(), 'made-while-reading', 'x')", "DELETE FROM projects"])
async def test_reading_cannot_write(database: Database, factory: Factory, statement: str) -> None:
    tenant = await factory.tenant()
    project = await factory.project(tenant)
    with pytest.raises(DatabaseUnavailable) as refused:
        async with database.read(tenant.id) as reader:
            await reader._connection.execute(statement)
    assert isinstance(refused.value.__cause__, asyncpg.ReadOnlySQLTransactionError)
    assert await names(database, tenant.id) == [project.name]


@pytest.mark.parametrize("kind", ["read", "transaction"])
async def test_the_named_tenant_does_not_outlive_the_transaction(settings: Settings, factory: Factory, kind: str) -> None:
    project = await factory.project(await factory.tenant())
    async with pool(settings, pool_size=1, max_overflow=0) as database:
        async with database.read(project.tenant_id) if kind == "read" else database.transaction(project.tenant_id):
            pass
        pooled = await database.engine.raw_connection()
        driver = cast("asyncpg.Connection[asyncpg.Record]", pooled.driver_connection)
        assert await driver.fetchval("SELECT current_setting('app.tenant_id', true)") in ("", None)
        assert await driver.fetchval("SELECT count(*) FROM projects") == 0
        pooled.close()


@pytest.mark.parametrize("tenant_id", ["x'; DROP TABLE tenants; --", "0198c0de-0000-7000-8000-000000000000", 1])
async def test_only_a_uuid_can_name_a_tenant(database: Database, tenant_id: Any) -> None:
    with pytest.raises(TypeError):
        async with database.read(tenant_id):
            pass
    with pytest.raises(TypeError):
        async with database.transaction(tenant_id):
            pass


async def test_the_owner_and_superusers_are_refused_as_the_services_role(settings: Settings) -> None:
    assert settings.database_admin_url is not None
    owner = Database(with_driver(settings.database_admin_url.get_secret_value(), "asyncpg"))
    with pytest.raises(UnsafeRole, match="BYPASSRLS"):
        await owner.check()
    await owner.close()


# ─── Faults ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def terminate_all(settings: Settings) -> int:
    """Have PostgreSQL close every connection of the service to this database. A role may do that to its own."""
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    ended = await connection.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = current_user AND datname = current_database() AND pid <> pg_backend_pid()"
    )
    await connection.close()
    return len(ended)


@pytest.mark.parametrize("pause", [0.0, 0.05])
async def test_connections_that_died_in_the_pool_are_replaced_without_a_failed_transaction(settings: Settings, factory: Factory, pause: float) -> None:
    tenant = await factory.tenant()
    async with pool(settings, pool_size=6, max_overflow=0) as database:

        async def write(number: int) -> None:
            async with database.transaction(tenant.id) as session:
                session.add(Project(tenant_id=tenant.id, name=f"Project {number}"))

        for round_ in range(4):
            await fill(database, 6)
            assert await terminate_all(settings) >= 6
            await asyncio.sleep(pause)
            await asyncio.gather(*(write(round_ * 10 + number) for number in range(10)), *(names(database, tenant.id) for _ in range(10)))
        assert len(await names(database, tenant.id)) == 40


async def test_a_connection_that_died_within_the_transaction_is_a_fault_and_undone(database: Database, settings: Settings, factory: Factory) -> None:
    tenant = await factory.tenant()
    with pytest.raises(DatabaseUnavailable):
        async with database.transaction(tenant.id) as session:
            session.add(Project(tenant_id=tenant.id, name="Lost"))
            await session.flush()
            await terminate_all(settings)
    assert await names(database, tenant.id) == []


async def test_a_connection_lost_while_writing_spoils_no_read_on_the_others(settings: Settings, factory: Factory) -> None:
    """SQLAlchemy then has every older connection of the pool made anew, one after the other."""
    tenant = await factory.tenant()
    async with pool(settings, pool_size=4, max_overflow=0) as database:
        await fill(database, 4)
        with pytest.raises(DatabaseUnavailable):
            async with database.transaction(tenant.id) as session:
                await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        for _ in range(8):
            await asyncio.gather(*(names(database, tenant.id) for _ in range(3)))


async def test_a_read_that_cannot_connect_keeps_no_place_in_the_pool(settings: Settings) -> None:
    url = settings.database_url.get_secret_value()
    async with proxy_to(url) as (proxy, through), pool(changed(settings, database_url=through), pool_size=1, max_overflow=0, pool_timeout=0.2) as database:
        for _ in range(2):
            await proxy.refuse()
            for _ in range(3):
                # Not DatabaseBusy.
                with pytest.raises(DatabaseUnavailable):
                    await database.check()
            await proxy.open()
            await database.check()


async def test_connections_beyond_the_size_of_the_pool_are_closed_when_they_come_back(settings: Settings) -> None:
    async with pool(settings, pool_size=2, max_overflow=3) as database:
        places = cast("QueuePool", database.engine.sync_engine.pool)
        for _ in range(2):
            await fill(database, 5)
            assert (places.checkedin(), places.checkedout(), places.overflow()) == (2, 0, 0)


@pytest.mark.parametrize(("patience", "ending"), [(0.2, TimeoutError), (5.0, ZeroDivisionError)])
async def test_a_connection_whose_transaction_cannot_be_ended_is_not_used_again(
    settings: Settings, factory: Factory, monkeypatch: pytest.MonkeyPatch, patience: float, ending: type[Exception]
) -> None:
    """Be it that the request is given up while what it left open is rolled back, or that there is no answer to that."""
    monkeypatch.setattr("app.database.OPENING_SECONDS", 0.5)
    tenant = await factory.tenant()
    url_through = proxy_to(settings.database_url.get_secret_value())
    async with url_through as (proxy, url), pool(changed(settings, database_url=url), pool_size=1, max_overflow=0, pool_timeout=1.0) as database:
        before = await backend_of(database)
        assert await backend_of(database) == before
        with pytest.raises(ending):
            async with asyncio.timeout(patience), database.read(tenant.id):
                proxy.freeze()
                raise ZeroDivisionError
        proxy.thaw()
        assert await backend_of(database) != before
        assert await names(database, tenant.id) == []


async def test_an_exhausted_pool_says_busy_in_time(settings: Settings) -> None:
    async with pool(settings, pool_size=1, max_overflow=0, pool_timeout=0.1) as database, database.read(None):
        with pytest.raises(DatabaseBusy):
            async with database.read(None):
                pass
        with pytest.raises(DatabaseBusy):
            async with database.transaction(None):
                pass


async def faults_of(database: Database) -> list[type[DatabaseFault]]:
    """Return the faults of reading and of writing."""
    with pytest.raises(DatabaseFault) as reading:
        async with database.read(None):
            pass
    with pytest.raises(DatabaseFault) as writing:
        async with database.transaction(None):
            pass
    return [reading.type, writing.type]


async def test_a_connection_that_postgresql_refuses_is_a_fault_for_readers_too(settings: Settings) -> None:
    """As it does while it recovers from a crash (57P03), or where its connections are used up (53300)."""
    owner_url, service_url = clone_database(f"saas_full_{worker_number()}")
    full = changed(settings, database_url=service_url, database_admin_url=owner_url)
    owner = await asyncpg.connect(owner_url)
    await owner.execute(f'ALTER DATABASE "{full.service_url.database}" CONNECTION LIMIT 0')
    async with pool(full) as database:
        assert await faults_of(database) == [DatabaseBusy, DatabaseBusy]
    async with running(full) as (_, client):
        answers = [await client.get(path, headers={"X-Tenant-Slug": "acme"}) for path in ("/health", "/health/ready", "/api/v1/tenant")]
        assert [answer.status_code for answer in answers] == [503, 503, 503]
    await owner.close()
    absent = changed(settings, database_url=settings.service_url.set(database="absent").render_as_string(hide_password=False))
    async with pool(absent) as database:
        assert await faults_of(database) == [DatabaseUnavailable, DatabaseUnavailable]


async def test_a_statement_that_takes_too_long_says_busy(database: Database) -> None:
    with pytest.raises(DatabaseBusy):
        async with database.transaction(None) as session:
            await session.execute(text("SET LOCAL statement_timeout = 50"))
            await session.execute(text("SELECT pg_sleep(5)"))


async def test_a_lock_that_takes_too_long_says_busy(database: Database, factory: Factory) -> None:
    project = await factory.project(await factory.tenant())
    row = select(Project).where(Project.tenant_id == project.tenant_id).with_for_update()
    async with database.transaction(project.tenant_id) as first:
        await first.execute(row)
        with pytest.raises(DatabaseBusy):
            async with database.transaction(project.tenant_id) as second:
                await second.execute(text("SET LOCAL lock_timeout = 50"))
                await second.execute(row)


async def test_the_role_carries_the_timeouts(database: Database) -> None:
    async with database.read(None) as reader:
        rows = await reader._connection.fetch("SELECT name, setting FROM pg_settings WHERE name LIKE '%timeout' OR name = 'client_connection_check_interval'")
    found = dict(tuple(row.values()) for row in rows)
    expected = {"statement_timeout": "5000", "lock_timeout": "2000", "idle_in_transaction_session_timeout": "10000"}
    assert {name: found[name] for name in expected} == expected
    assert found["client_connection_check_interval"] == "500"


async def test_a_lost_update_is_a_conflict(database: Database, factory: Factory) -> None:
    project = await factory.project(await factory.tenant())
    change = update(Project).where(Project.tenant_id == project.tenant_id)
    with pytest.raises(TransactionConflict):
        async with database.transaction(project.tenant_id) as first:
            await first.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            await first.execute(select(Project.name).where(Project.tenant_id == project.tenant_id))
            async with database.transaction(project.tenant_id) as second:
                await second.execute(change.values(name="Second"))
            await first.execute(change.values(name="First"))
    assert await names(database, project.tenant_id) == ["Second"]


# ─── Requests ────────────────────────────────────────────────────────────────────────────────────────────────────────

router = APIRouter(prefix="/api/v1/test", route_class=RetryingRoute)


class Order(BaseModel):
    """Two projects, in the order in which they are to be locked."""

    first: UUID
    second: UUID


class Meeting:
    """Has two requests hold one lock each before either asks for the other's."""

    def __init__(self) -> None:
        self.barrier = asyncio.Barrier(2)
        self.attempts = 0
        self.actions = 0


@router.post("/swap")
async def swap(order: Order, ctx: AsMember) -> dict[str, str]:
    """Change two projects, one after the other."""
    meeting: Meeting = ctx.services.meeting  # type: ignore[attr-defined]  # put there by the test
    meeting.attempts += 1

    async def act() -> None:
        meeting.actions += 1

    ctx.after_commit(act)
    for number, project_id in enumerate((order.first, order.second)):
        changed_row = update(Project).where(Project.tenant_id == ctx.tenant.id, Project.id == project_id).values(view_count=Project.view_count + 1)
        await ctx.session.execute(changed_row)
        if number == 0 and meeting.attempts <= 2:
            await meeting.barrier.wait()
    return {"first": str(order.first)}


@router.post("/lose")
async def lose(order: Order, ctx: AsMember) -> None:
    """Lose against another transaction, each time."""
    meeting: Meeting = ctx.services.meeting  # type: ignore[attr-defined]  # put there by the test
    meeting.attempts += 1
    await ctx.session.execute(update(Project).where(Project.tenant_id == ctx.tenant.id, Project.id == order.first).values(view_count=Project.view_count + 1))
    await ctx.session.execute(text("DO $$ BEGIN RAISE EXCEPTION 'lost' USING ERRCODE = '40001'; END $$"))


@router.get("/slow")
async def slow(caller: ReadAsViewer) -> None:
    """Take longer than a statement may."""
    async with caller.read() as reader:
        await reader._connection.execute("SET LOCAL statement_timeout = 50")
        await reader._connection.execute("SELECT pg_sleep(5)")


@router.get("/hold")
async def hold(caller: ReadAsViewer) -> None:
    """Keep a connection until the test lets go."""
    meeting: Meeting = caller.services.meeting  # type: ignore[attr-defined]  # put there by the test
    async with caller.read():
        await meeting.barrier.wait()


@asynccontextmanager
async def with_test_routes(settings: Settings) -> AsyncIterator[tuple[AsyncClient, Services, Meeting]]:
    meeting = Meeting()

    def prepare(app: FastAPI) -> None:
        app.include_router(router)
        object.__setattr__(app.state.services, "meeting", meeting)

    async with running(settings, prepare) as (app, client):
        yield client, app.state.services, meeting


@pytest.fixture
async def person(factory: Factory) -> Person:
    return await factory.person(role=Role.MEMBER)


async def view_counts(factory: Factory, person: Person) -> list[int]:
    return [row[0] for row in await factory.run("SELECT view_count FROM projects WHERE tenant_id = :id ORDER BY id", id=person.tenant.id)]


async def test_a_deadlock_between_two_requests_is_run_again_and_both_succeed(settings: Settings, factory: Factory, person: Person) -> None:
    one, two = [await factory.project(person.tenant) for _ in range(2)]
    async with with_test_routes(settings) as (client, _, meeting):
        orders = [{"first": str(one.id), "second": str(two.id)}, {"first": str(two.id), "second": str(one.id)}]
        answers = await asyncio.gather(*(client.post("/api/v1/test/swap", headers=person.headers, json=order) for order in orders))
    assert [answer.status_code for answer in answers] == [200, 200]
    # The body was read again, and nothing of the lost attempt has stayed, nor was anything done for it.
    assert [answer.json()["first"] for answer in answers] == [str(one.id), str(two.id)]
    assert await view_counts(factory, person) == [2, 2]
    assert meeting.attempts == 3
    assert meeting.actions == 2


async def test_a_request_that_always_loses_is_told_503_after_three_attempts(settings: Settings, factory: Factory, person: Person) -> None:
    project = await factory.project(person.tenant)
    async with with_test_routes(settings) as (client, _, meeting):
        answer = await client.post("/api/v1/test/lose", headers=person.headers, json={"first": str(project.id), "second": str(project.id)})
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
        assert int(answer.headers["Retry-After"]) >= 1
        assert meeting.attempts == ATTEMPTS == 3
    assert await view_counts(factory, person) == [0]


async def test_a_statement_timeout_is_503(settings: Settings, person: Person) -> None:
    async with with_test_routes(settings) as (client, _, _):
        answer = await client.get("/api/v1/test/slow", headers=person.headers)
    assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
    assert int(answer.headers["Retry-After"]) >= 1


async def test_an_exhausted_pool_is_503_and_over_when_a_connection_is_free(settings: Settings, person: Person) -> None:
    own = changed(settings, database_pool_size=2, database_max_overflow=0, database_pool_timeout=0.2)
    async with with_test_routes(own) as (client, services, meeting):
        meeting.barrier = asyncio.Barrier(3)
        assert (await client.get("/api/v1/projects", headers=person.headers)).status_code == 200
        holding = [asyncio.create_task(client.get("/api/v1/test/hold", headers=person.headers)) for _ in range(2)]

        async def both_hold() -> bool:
            return meeting.barrier.n_waiting == 2

        await eventually(both_hold)
        answer = await client.get("/api/v1/projects", headers=person.headers)
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
        assert int(answer.headers["Retry-After"]) >= 1
        await meeting.barrier.wait()
        assert [(await held).status_code for held in holding] == [200, 200]
        assert (await client.get("/api/v1/projects", headers=person.headers)).status_code == 200
        assert services.database.engine.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # a QueuePool


# ─── Committed before the answer ─────────────────────────────────────────────────────────────────────────────────────

REFUSE_AT_COMMIT = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.name = 'conflict' THEN RAISE EXCEPTION 'lost' USING ERRCODE = '40001'; END IF;
    IF NEW.name = 'refuse' THEN RAISE EXCEPTION 'refused' USING ERRCODE = '23514'; END IF;
    RETURN NULL;
END $$
"""
CHECK_AT_COMMIT = "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON projects DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"


@pytest.fixture(scope="module")
async def refusing(settings: Settings) -> AsyncIterator[tuple[AsyncClient, Factory]]:
    """An application whose database refuses some projects, but only at the COMMIT."""
    owner_url, service_url = clone_database(f"saas_refusing_{worker_number()}")
    own = changed(settings, database_url=service_url, database_admin_url=owner_url)
    factory = Factory(owner_url, own)
    await factory.run(REFUSE_AT_COMMIT)
    await factory.run(CHECK_AT_COMMIT)
    async with running(own) as (_, client):
        yield client, factory
    await factory.close()


@pytest.mark.parametrize(("name", "status"), [("refuse", 500), ("conflict", 503)])
async def test_a_commit_that_fails_is_never_answered_with_201(refusing: tuple[AsyncClient, Factory], name: str, status: int) -> None:
    client, factory = refusing
    person = await factory.person()
    answer = await client.post("/api/v1/projects", headers=person.headers, json={"name": name})
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "Location" not in answer.headers
    assert await view_counts(factory, person) == []
    assert (await client.post("/api/v1/projects", headers=person.headers, json={"name": "accepted"})).status_code == 201


async def test_when_the_answer_is_there_the_row_is(client: AsyncClient, factory: Factory, person: Person) -> None:
    for number in range(10):
        created = await client.post("/api/v1/projects", headers=person.headers, json={"name": f"{uuid4()}"})
        assert created.status_code == 201
        assert len(await view_counts(factory, person)) == number + 1
