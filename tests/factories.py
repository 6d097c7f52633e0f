"""Makes what tests need: tenants, people who are signed in, projects, resources. Every tenant is new, so no test sees another's."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

from passlib.context import CryptContext
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from app.config import Settings, with_driver
from app.core.security import AccessTokens
from app.models import Base, Project, Resource, Role, Session, Tenant, User, new_id

Row = TypeVar("Row", bound=Base)

PASSWORD = "a long passphrase"
PASSWORD_HASH = CryptContext(schemes=["bcrypt_sha256"], bcrypt_sha256__rounds=4).hash(PASSWORD)


@dataclass(frozen=True)
class Person:
    """A signed-in user."""

    tenant: Tenant
    user: User
    session_id: UUID
    token: str

    @property
    def headers(self) -> dict[str, str]:
        """The headers of this person's requests."""
        return {"Authorization": f"Bearer {self.token}", "X-Tenant-Slug": self.tenant.slug}


class Factory:
    """Writes rows as the owner's role, which row-level security does not bind."""

    def __init__(self, owner_url: str, settings: Settings) -> None:
        self._engine = create_async_engine(with_driver(owner_url, "asyncpg"))
        self._tokens = AccessTokens(settings)

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()

    async def tenant(self, **values: Any) -> Tenant:
        """Make a tenant. Its limits are too high to be met by chance."""
        slug = values.pop("slug", None) or f"t-{uuid4().hex[:20]}"
        tenant_id = new_id()
        defaults = {"subdomain": slug, "name": f"Tenant {slug}", "rate_limit_per_minute": 1_000_000, "rate_limit_burst": 1_000_000}
        return await self._add(Tenant(id=tenant_id, slug=slug, **{**defaults, **values}))

    async def user(self, tenant: Tenant, role: Role = Role.MEMBER, **values: Any) -> User:
        """Make a user whose password is `PASSWORD`."""
        defaults = {"email": f"{uuid4().hex[:12]}@example.com", "full_name": f"{role.value.title()} Person", "password_hash": PASSWORD_HASH, "role": role}
        return await self._add(User(tenant_id=tenant.id, id=new_id(), **{**defaults, **values}))

    async def person(self, tenant: Tenant | None = None, role: Role = Role.ADMIN, **values: Any) -> Person:
        """Make a user who is signed in, in a tenant of its own where none is given."""
        tenant = tenant or await self.tenant()
        return await self.sign_in(tenant, await self.user(tenant, role, **values))

    async def sign_in(self, tenant: Tenant, user: User) -> Person:
        """Open a session for a user."""
        session = await self._add(
            Session(
                tenant_id=tenant.id,
                id=new_id(),
                user_id=user.id,
                refresh_token_hash=uuid4().bytes,
                expires_at=datetime.now(UTC) + timedelta(days=1),
            )
        )
        token = self._tokens.issue(user_id=user.id, tenant_id=tenant.id, session_id=session.id, role=user.role)
        return Person(tenant, user, session.id, token)

    async def project(self, tenant: Tenant, **values: Any) -> Project:
        """Make a project."""
        return await self._add(Project(tenant_id=tenant.id, id=new_id(), **{"name": f"Project {uuid4().hex[:8]}", **values}))

    async def resource(self, project: Project, **values: Any) -> Resource:
        """Make a resource of a project."""
        defaults = {"name": f"Resource {uuid4().hex[:8]}", "type": "note", "data": {"secret": uuid4().hex}}
        return await self._add(Resource(tenant_id=project.tenant_id, id=new_id(), project_id=project.id, **{**defaults, **values}))

    async def run(self, sql: str, **parameters: Any) -> list[Any]:
        """Run a statement as the owner's role, commit, and return the rows, if it gives any."""
        async with self._engine.begin() as connection:
            result = await connection.execute(text(sql), parameters)
            return list(result) if result.returns_rows else []

    async def _add(self, row: Row) -> Row:
        async with AsyncSession(self._engine, expire_on_commit=False) as session, session.begin():
            session.add(row)
            await session.flush()
            await session.refresh(row)
        return row
