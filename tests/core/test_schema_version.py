"""A process is ready once the database has been migrated as far as its code needs."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import alembic.script
import asyncpg
import pytest
from httpx import AsyncClient

from app.config import Settings
from app.core.schema_version import outdated_revisions
from tests.conftest import alembic_config, clone_database, worker_number
from tests.faults.support import changed, running

if TYPE_CHECKING:
    Migrating = tuple[AsyncClient, asyncpg.Connection[asyncpg.Record]]


@pytest.fixture
async def migrating(settings: Settings) -> AsyncIterator["Migrating"]:
    """A client of an application that has just started, and the owner's connection to its database."""
    owner_url, service_url = clone_database(f"saas_migrating_{worker_number()}")
    owner = await asyncpg.connect(owner_url)
    async with running(changed(settings, database_url=service_url, database_admin_url=owner_url)) as (_, client):
        yield client, owner
    await owner.close()


async def readiness(client: AsyncClient) -> tuple[int, str]:
    answer = await client.get("/health/ready")
    return answer.status_code, answer.json().get("code", "")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE alembic_version SET version_num = '0001'",
        "DELETE FROM alembic_version",
        "DROP TABLE alembic_version",
        "REVOKE ALL ON alembic_version FROM saas_service",
    ],
)
async def test_on_an_older_schema_a_process_is_alive_and_not_ready(migrating: "Migrating", statement: str) -> None:
    client, owner = migrating
    await owner.execute(statement)
    for _ in range(2):
        assert await readiness(client) == (503, "not_migrated")
    assert (await client.get("/health/live")).status_code == 200


async def test_a_process_becomes_ready_when_the_migration_has_run(migrating: "Migrating") -> None:
    client, owner = migrating
    (current,) = await owner.fetchrow("SELECT version_num FROM alembic_version") or ("",)
    await owner.execute("UPDATE alembic_version SET version_num = '0001'")
    assert await readiness(client) == (503, "not_migrated")
    await owner.execute("UPDATE alembic_version SET version_num = $1", current)
    assert await readiness(client) == (200, "")


async def test_on_a_newer_schema_than_its_code_knows_a_process_is_ready(migrating: "Migrating") -> None:
    """As while a new version is rolled out: the old processes serve on."""
    client, owner = migrating
    await owner.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    assert await readiness(client) == (200, "")


async def test_a_process_that_was_ready_does_not_ask_again(migrating: "Migrating") -> None:
    client, owner = migrating
    assert await readiness(client) == (200, "")
    await owner.execute("DROP TABLE alembic_version")
    assert await readiness(client) == (200, "")


def test_what_is_outdated_is_every_revision_but_the_newest() -> None:
    scripts = alembic.script.ScriptDirectory.from_config(alembic_config("postgresql://"))
    assert outdated_revisions() == {script.revision for script in scripts.walk_revisions()} - set(scripts.get_heads())
