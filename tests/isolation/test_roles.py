"""The two roles: what the service's role cannot do, whatever the application asks of it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from uuid import uuid4

import psycopg2
import pytest
from psycopg2 import errors, extensions
from sqlalchemy.engine import make_url

from app.config import with_driver
from app.database import Database, UnsafeRole
from app.models import Role, Tenant, TenantModel, TokenPurpose
from tests.conftest import worker_number
from tests.factories import Factory

TENANT_TABLES = sorted(model.__tablename__ for model in TenantModel.__subclasses__())


@pytest.fixture
def service_cursor(database_urls: tuple[str, str]) -> Iterator[extensions.cursor]:
    """A cursor of the service's role, in a transaction that is rolled back, with no tenant named."""
    connection = psycopg2.connect(database_urls[1])
    with connection.cursor() as cursor:
        yield cursor
    connection.rollback()
    connection.close()


@asynccontextmanager
async def database_of(url: str) -> AsyncIterator[Database]:
    database = Database(with_driver(url, "asyncpg"), pool_size=1)
    try:
        yield database
    finally:
        await database.close()


def name_tenant(cursor: extensions.cursor, tenant: Tenant) -> None:
    cursor.execute(f"SET LOCAL app.tenant_id = '{tenant.id}'")


async def test_a_superuser_is_refused(superuser_url: str) -> None:
    async with database_of(superuser_url) as database:
        with pytest.raises(UnsafeRole, match="is a superuser"):
            await database.check()


async def test_a_role_that_row_level_security_does_not_bind_is_refused(database_urls: tuple[str, str]) -> None:
    async with database_of(database_urls[0]) as database:
        with pytest.raises(UnsafeRole, match="has BYPASSRLS"):
            await database.check()


async def test_a_role_that_owns_tables_is_refused(database_urls: tuple[str, str]) -> None:
    name = f"owner_of_a_table_{worker_number()}"
    connection = psycopg2.connect(database_urls[0])
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'owner' IN ROLE saas_service; GRANT {name} TO current_user; GRANT CREATE ON SCHEMA public TO {name}")
        cursor.execute(f"SET ROLE {name}; CREATE TABLE owned_{name} (id uuid); RESET ROLE")
        try:
            url = make_url(database_urls[0]).set(username=name, password="owner")
            async with database_of(url.render_as_string(hide_password=False)) as database:
                with pytest.raises(UnsafeRole, match="owns tables"):
                    await database.check()
        finally:
            cursor.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
    connection.close()


async def test_every_way_into_the_database_refuses_an_unsafe_role(database_urls: tuple[str, str]) -> None:
    async with database_of(database_urls[0]) as database:
        with pytest.raises(UnsafeRole):
            async with database.read(uuid4()):
                pass
        with pytest.raises(UnsafeRole):
            async with database.transaction(uuid4()):
                pass


async def test_the_service_s_own_role_is_accepted(database_urls: tuple[str, str]) -> None:
    async with database_of(database_urls[1]) as database:
        await database.check()


@pytest.mark.parametrize("table", TENANT_TABLES)
async def test_without_a_named_tenant_a_table_shows_nothing(factory: Factory, service_cursor: extensions.cursor, table: str) -> None:
    tenant = await tenant_with_a_row_in_each_table(factory)
    service_cursor.execute(f"SELECT count(*) FROM {table}")
    assert service_cursor.fetchone() == (0,)
    name_tenant(service_cursor, tenant)
    service_cursor.execute(f"SELECT DISTINCT tenant_id::text FROM {table}")
    assert service_cursor.fetchall() == [(str(tenant.id),)]


@pytest.mark.parametrize("table", TENANT_TABLES)
async def test_another_tenant_s_rows_can_be_neither_changed_nor_deleted(factory: Factory, service_cursor: extensions.cursor, table: str) -> None:
    await tenant_with_a_row_in_each_table(factory)
    own = await factory.tenant()
    name_tenant(service_cursor, own)
    service_cursor.execute(f"UPDATE {table} SET created_at = now()")
    assert service_cursor.rowcount == 0
    service_cursor.execute(f"DELETE FROM {table}")
    assert service_cursor.rowcount == 0


@pytest.mark.parametrize("table", TENANT_TABLES)
async def test_a_row_cannot_be_given_to_another_tenant(factory: Factory, service_cursor: extensions.cursor, table: str) -> None:
    own, other = await tenant_with_a_row_in_each_table(factory), await factory.tenant()
    name_tenant(service_cursor, own)
    with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
        service_cursor.execute(f"UPDATE {table} SET tenant_id = %s", (str(other.id),))


@pytest.mark.parametrize("named", [True, False])
async def test_a_row_cannot_be_inserted_for_another_tenant(factory: Factory, service_cursor: extensions.cursor, named: bool) -> None:
    own, other = await factory.tenant(), await factory.tenant()
    if named:
        name_tenant(service_cursor, own)
    with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
        service_cursor.execute("INSERT INTO projects (tenant_id, id, name) VALUES (%s, %s, 'planted')", (str(other.id), str(uuid4())))


async def test_another_tenant_itself_cannot_be_changed(factory: Factory, service_cursor: extensions.cursor) -> None:
    own, other = await factory.tenant(), await factory.tenant()
    name_tenant(service_cursor, own)
    service_cursor.execute("UPDATE tenants SET name = 'taken over' WHERE id <> %s", (str(own.id),))
    assert service_cursor.rowcount == 0
    service_cursor.execute("UPDATE tenants SET name = 'ours' WHERE id IN (%s, %s)", (str(own.id), str(other.id)))
    assert service_cursor.rowcount == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tenants SET subscription_tier = 'enterprise'",
        "UPDATE tenants SET is_active = true",
        "UPDATE tenants SET rate_limit_per_minute = 1000000",
        "UPDATE tenants SET id = gen_random_uuid()",
        "UPDATE tenants SET slug = 'another'",
        "DELETE FROM tenants",
        "TRUNCATE tenants",
        "TRUNCATE projects",
        "ALTER TABLE projects DISABLE ROW LEVEL SECURITY",
        "DROP POLICY tenant_isolation ON projects",
        "CREATE TABLE mine (id uuid)",
        "SET ROLE saas_owner",
        "UPDATE alembic_version SET version_num = '0001'",
        "DELETE FROM alembic_version",
        "INSERT INTO alembic_version VALUES ('0001')",
    ],
)
async def test_what_is_the_operator_s_is_refused_even_to_the_tenant_itself(factory: Factory, service_cursor: extensions.cursor, statement: str) -> None:
    name_tenant(service_cursor, await factory.tenant())
    with pytest.raises(errors.InsufficientPrivilege):
        service_cursor.execute(statement)


@pytest.mark.parametrize("column, value", [("subscription_tier", "enterprise"), ("is_active", "true"), ("rate_limit_burst", "1000000")])
async def test_a_tenant_cannot_be_made_with_what_is_the_operator_s(service_cursor: extensions.cursor, column: str, value: str) -> None:
    tenant_id = uuid4()
    service_cursor.execute(f"SET LOCAL app.tenant_id = '{tenant_id}'")
    with pytest.raises(errors.InsufficientPrivilege):
        service_cursor.execute(f"INSERT INTO tenants (id, slug, name, {column}) VALUES (%s, %s, 'New', %s)", (str(tenant_id), f"t-{tenant_id.hex}", value))


async def test_a_tenant_can_be_made_only_as_itself(service_cursor: extensions.cursor) -> None:
    service_cursor.execute(f"SET LOCAL app.tenant_id = '{uuid4()}'")
    with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
        service_cursor.execute("INSERT INTO tenants (id, slug, name) VALUES (%s, %s, 'New')", (str(uuid4()), f"t-{uuid4().hex}"))


async def test_a_key_cannot_lead_to_another_tenant_s_row(factory: Factory, owner_cursor: extensions.cursor) -> None:
    """Held by the composite keys alone: this role is not bound by row-level security."""
    own, other = await factory.tenant(), await factory.tenant()
    project, stranger = await factory.project(other), await factory.user(other)
    attempts = {
        "INSERT INTO resources (tenant_id, id, project_id, name, type, data) VALUES (%s, gen_random_uuid(), %s, 'r', 'note', '{}')": project.id,
        "INSERT INTO projects (tenant_id, id, name, owner_id) VALUES (%s, gen_random_uuid(), 'p', %s)": stranger.id,
        "INSERT INTO sessions (tenant_id, id, user_id, refresh_token_hash, expires_at) VALUES (%s, gen_random_uuid(), %s, 'x', now())": stranger.id,
    }
    for statement, foreign in attempts.items():
        owner_cursor.execute("SAVEPOINT attempt")
        with pytest.raises(errors.ForeignKeyViolation):
            owner_cursor.execute(statement, (str(own.id), str(foreign)))
        owner_cursor.execute("ROLLBACK TO SAVEPOINT attempt")
        owner_cursor.execute(statement, (str(other.id), str(foreign)))


async def tenant_with_a_row_in_each_table(factory: Factory) -> Tenant:
    person = await factory.person(role=Role.ADMIN)
    await factory.resource(await factory.project(person.tenant))
    await factory.invitation(person.tenant)
    await factory.mail(person.tenant)
    await factory.mailed_token(person.user, TokenPurpose.RESET_PASSWORD)
    return person.tenant
