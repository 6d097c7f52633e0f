"""A database full of tenants, each with one user who is signed in, and projects that came in turn over a year."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import alembic.command
import alembic.config
import asyncpg

from app.config import with_driver
from app.core.security import AccessTokens
from app.models import Role, new_id
from app.services.roles import prepare_database

ROOT = Path(__file__).parents[1]
UNLIMITED = 1_000_000
YEAR = timedelta(days=365)

COLUMNS = {
    "tenants": ("id", "slug", "subdomain", "name", "rate_limit_per_minute", "rate_limit_burst"),
    "users": ("tenant_id", "id", "email", "full_name", "role"),
    "sessions": ("tenant_id", "id", "user_id", "refresh_token_hash", "expires_at"),
    "projects": ("tenant_id", "id", "name", "description", "status", "owner_id", "created_at", "updated_at"),
}


@dataclass(frozen=True)
class SeededTenant:
    """A tenant, its user, the user's session and access token, and the projects."""

    id: UUID
    slug: str
    user_id: UUID
    session_id: UUID
    token: str
    project_ids: list[UUID]


def prepare(owner_url: str, service_url: str) -> None:
    """Make the database, where it is missing, and all tables."""
    owner, service = with_driver(owner_url, "psycopg2"), with_driver(service_url, "psycopg2")
    prepare_database(owner, service)
    configuration = alembic.config.Config(ROOT / "alembic.ini")
    configuration.set_main_option("script_location", str(ROOT / "alembic").replace("%", "%%"))
    configuration.attributes.update(url=owner, service_role=service.username)
    alembic.command.upgrade(configuration, "head")


def seed(owner_url: str, tokens: AccessTokens, *, tenants: int, projects: int) -> list[SeededTenant]:
    """Make so many tenants with so many projects each, whose limits nobody will meet. Raises `asyncpg.PostgresError`."""
    made = [_tenant(number, projects, tokens) for number in range(tenants)]
    asyncio.run(_copy(owner_url, made))
    return made


def _tenant(number: int, projects: int, tokens: AccessTokens) -> SeededTenant:
    tenant_id, user_id, session_id = new_id(), new_id(), new_id()
    token = tokens.issue(user_id=user_id, tenant_id=tenant_id, session_id=session_id, role=Role.MEMBER)
    return SeededTenant(tenant_id, f"tenant-{number:06}", user_id, session_id, token, [new_id() for _ in range(projects)])


async def _copy(owner_url: str, made: list[SeededTenant]) -> None:
    connection = await asyncpg.connect(owner_url)
    expires = datetime.now(UTC) + timedelta(days=1)
    rows: dict[str, Iterator[tuple[Any, ...]]] = {
        "tenants": ((t.id, t.slug, t.slug, f"Tenant {t.slug}", UNLIMITED, UNLIMITED) for t in made),
        "users": ((t.id, t.user_id, "member@example.com", "Member Person", Role.MEMBER) for t in made),
        "sessions": ((t.id, t.session_id, t.user_id, uuid4().bytes, expires) for t in made),
        "projects": _projects(made),
    }
    try:
        for table, records in rows.items():
            await connection.copy_records_to_table(table, columns=COLUMNS[table], records=records)
            await connection.execute(f"VACUUM ANALYZE {table}")
    finally:
        await connection.close()


def _projects(made: list[SeededTenant]) -> Iterator[tuple[Any, ...]]:
    # In turn, as tenants that work side by side make them: the rows of one tenant lie far apart in the table.
    in_turn = [(tenant, number) for number in range(len(made[0].project_ids)) for tenant in made]
    for place, (tenant, number) in enumerate(in_turn):
        time = datetime.now(UTC) - YEAR * (1 - place / len(in_turn))
        description = f"Project {number} of {tenant.slug}: what it is for, who takes part in it, and what is to be done next."
        yield tenant.id, tenant.project_ids[number], f"Project {number}", description, "active", tenant.user_id, time, time
