"""The collections, and how rows for their lists are made in one statement."""

from dataclasses import dataclass
from uuid import UUID

from app.models import Project, Tenant
from tests.factories import Factory


@dataclass(frozen=True)
class Collection:
    """A collection of the API."""

    name: str
    sorts: tuple[str, ...]
    under: str = ""

    @property
    def path(self) -> str:
        """Where it is listed."""
        return f"/api/v1/{self.under}{self.name}"

    async def add(self, factory: Factory, parent: Project, number: int, *, distinct: int = 1_000_000_000) -> None:
        """Add rows to the parent's tenant. Each sort column but addresses has at most so many distinct values, so that there are ties."""
        await factory.run(
            _INSERT[self.name],
            tenant=parent.tenant_id,
            parent=parent.id,
            number=number,
            distinct=distinct,
        )

    async def identifiers(self, factory: Factory, tenant: Tenant) -> set[str]:
        """Return the identifiers of the rows that are there."""
        return {str(row[0]) for row in await factory.run(f"SELECT id FROM {self.name} WHERE tenant_id = :tenant", tenant=tenant.id)}

    async def remove(self, factory: Factory, identifiers: list[str]) -> None:
        """Remove rows."""
        await factory.run(f"DELETE FROM {self.name} WHERE id = ANY (:ids)", ids=[UUID(identifier) for identifier in identifiers])


_TIMES = "timestamptz '2026-01-01' + make_interval(secs => (random() * 1e6)::int % :distinct)"
_TEXT = "'Row ' || (random() * 1e6)::int % :distinct"
_INSERT = {
    "projects": f"""
        INSERT INTO projects (tenant_id, id, name, created_at, updated_at)
        SELECT :tenant, gen_random_uuid(), {_TEXT}, {_TIMES}, {_TIMES} FROM generate_series(1, :number) WHERE CAST(:parent AS uuid) IS NOT NULL""",
    "users": f"""
        INSERT INTO users (tenant_id, id, email, full_name, role, created_at)
        SELECT :tenant, gen_random_uuid(), gen_random_uuid() || '@example.com', {_TEXT}, 'viewer', {_TIMES} FROM generate_series(1, :number)
        WHERE CAST(:parent AS uuid) IS NOT NULL""",
    "resources": f"""
        INSERT INTO resources (tenant_id, id, project_id, name, type, data, created_at, updated_at)
        SELECT :tenant, gen_random_uuid(), :parent, {_TEXT}, 'note', '{{}}', {_TIMES}, {_TIMES} FROM generate_series(1, :number)""",
    "invitations": f"""
        INSERT INTO invitations (tenant_id, id, email, role, token_hash, created_at, expires_at)
        SELECT :tenant, gen_random_uuid(), {_TEXT} || '-' || gen_random_uuid() || '@example.com', 'viewer', '', {_TIMES}, now() + interval '7 days'
        FROM generate_series(1, :number) WHERE CAST(:parent AS uuid) IS NOT NULL""",
}

PROJECTS = Collection("projects", ("created_at", "updated_at", "name"))
USERS = Collection("users", ("created_at", "email", "full_name"))
RESOURCES = Collection("resources", ("created_at", "updated_at", "name"))
INVITATIONS = Collection("invitations", ("created_at", "email"), under="users/")
COLLECTIONS = (PROJECTS, USERS, RESOURCES, INVITATIONS)
SORTS = [(collection, sign + sort) for collection in COLLECTIONS for sort in collection.sorts for sign in ("", "-")]


def name_of(value: object) -> str | None:
    """Name a parameter for pytest."""
    return value.name if isinstance(value, Collection) else None
