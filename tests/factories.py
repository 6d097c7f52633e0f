"""Makes what tests need: tenants, people who are signed in, projects, resources. Every tenant is new, so no test sees another's."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

from passlib.context import CryptContext
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from app.config import Settings, with_driver
from app.core.derived_tokens import DerivedTokens, TokenKind, TokenName, token_hash
from app.core.security import AccessTokens
from app.models import (
    Base,
    Invitation,
    Mail,
    MailTemplate,
    OneTimeToken,
    Project,
    Resource,
    Role,
    Session,
    Tenant,
    TokenPurpose,
    User,
    new_id,
)

Row = TypeVar("Row", bound=Base)

PASSWORD = "a long passphrase"
PASSWORD_HASH = CryptContext(schemes=["bcrypt_sha256"], bcrypt_sha256__rounds=4).hash(PASSWORD)


def _in(**time: float) -> datetime:
    return datetime.now(UTC) + timedelta(**time)


@dataclass(frozen=True)
class Person:
    """A signed-in user."""

    tenant: Tenant
    user: User
    session_id: UUID
    token: str
    refresh_token: str

    @property
    def headers(self) -> dict[str, str]:
        """The headers of this person's requests."""
        return {"Authorization": f"Bearer {self.token}", "X-Tenant-Slug": self.tenant.slug}


class Factory:
    """Writes rows as the owner's role, which row-level security does not bind."""

    def __init__(self, owner_url: str, settings: Settings) -> None:
        self._engine = create_async_engine(with_driver(owner_url, "asyncpg"))
        self._tokens = AccessTokens(settings)
        self.derived_tokens = DerivedTokens(settings)

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
        session_id = new_id()
        refresh_token = self.derived_tokens.make(TokenKind.REFRESH, TokenName(tenant.id, session_id))
        session = await self._add(
            Session(
                tenant_id=tenant.id,
                id=session_id,
                user_id=user.id,
                refresh_token_hash=token_hash(refresh_token),
                expires_at=_in(days=1),
            )
        )
        token = self._tokens.issue(user_id=user.id, tenant_id=tenant.id, session_id=session.id, role=user.role)
        return Person(tenant, user, session.id, token, refresh_token)

    async def repeatable_refresh_token(self, tenant: Tenant, user: User) -> str:
        """Return a refresh token that was used already, in a session whose time of grace lasts for a day: each time it gets the same successor."""
        person = await self.sign_in(tenant, user)
        successor = self.derived_tokens.make(TokenKind.REFRESH, TokenName(tenant.id, person.session_id, 1))
        await self.run(
            "UPDATE sessions SET refresh_count = 1, previous_token_hash = refresh_token_hash, refresh_token_hash = :successor,"
            " refreshed_at = now() + interval '1 day' WHERE tenant_id = :tenant AND id = :id",
            successor=token_hash(successor),
            tenant=tenant.id,
            id=person.session_id,
        )
        return person.refresh_token

    async def project(self, tenant: Tenant, **values: Any) -> Project:
        """Make a project."""
        return await self._add(Project(tenant_id=tenant.id, id=new_id(), **{"name": f"Project {uuid4().hex[:8]}", **values}))

    async def resource(self, project: Project, **values: Any) -> Resource:
        """Make a resource of a project."""
        defaults = {"name": f"Resource {uuid4().hex[:8]}", "type": "note", "data": {"secret": uuid4().hex}}
        return await self._add(Resource(tenant_id=project.tenant_id, id=new_id(), project_id=project.id, **{**defaults, **values}))

    async def invitation(self, tenant: Tenant, **values: Any) -> tuple[Invitation, str]:
        """Make an open invitation. Returns it and its token."""
        row_id = new_id()
        token = self.derived_tokens.make(TokenKind.INVITATION, TokenName(tenant.id, row_id))
        defaults = {"email": f"{uuid4().hex[:12]}@example.com", "role": Role.MEMBER, "token_hash": token_hash(token), "expires_at": _in(days=7)}
        return await self._add(Invitation(tenant_id=tenant.id, id=row_id, **{**defaults, **values})), token

    async def mailed_token(self, user: User, purpose: TokenPurpose, **values: Any) -> str:
        """Make the token that a mail to the user would have held, and return it."""
        row_id = new_id()
        token = self.derived_tokens.make(TokenKind.MAILED, TokenName(user.tenant_id, row_id))
        defaults = {"user_id": user.id, "purpose": purpose, "token_hash": token_hash(token), "email": user.email, "expires_at": _in(minutes=30)}
        await self._add(OneTimeToken(tenant_id=user.tenant_id, id=row_id, **{**defaults, **values}))
        return token

    async def mail(self, tenant: Tenant, **values: Any) -> Mail:
        """Make a mail that waits, without the job that would send it."""
        defaults = {"template": MailTemplate.VERIFY_EMAIL, "recipient": f"{uuid4().hex[:12]}@example.com", "data": {}}
        return await self._add(Mail(tenant_id=tenant.id, id=new_id(), **{**defaults, **values}))

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
