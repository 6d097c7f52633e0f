"""The caller: the user and session that an access token names, as they are now."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import and_, bindparam, func, select

from app.core.exceptions import TokenRevoked
from app.core.security import Claims
from app.core.stamps import Stamp, StampedCache
from app.database import Database, Query
from app.models import Session, User


@dataclass(frozen=True, slots=True)
class Principal:
    """A signed-in user."""

    id: UUID
    tenant_id: UUID
    email: str
    full_name: str
    role: str
    is_active: bool
    email_verified: bool
    created_at: datetime
    updated_at: datetime
    last_login_at: datetime | None


_COLUMNS = [getattr(User, name) for name in Principal.__dataclass_fields__]
_FIND = Query(
    select(*_COLUMNS)
    .join(Session, and_(Session.tenant_id == User.tenant_id, Session.user_id == User.id))
    .where(
        User.tenant_id == bindparam("tenant_id"),
        User.id == bindparam("user_id"),
        User.is_active,
        Session.tenant_id == bindparam("tenant_id"),
        Session.id == bindparam("session_id"),
        Session.revoked_at.is_(None),
        Session.expires_at > func.now(),
    )
)


class PrincipalDirectory:
    """Finds principals, in the process's memory where the stamps allow it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cache: StampedCache[tuple[UUID, UUID, UUID], Principal] = StampedCache()

    async def find(self, claims: Claims, stamp: Stamp | None) -> Principal:
        """Return the user of a token. Raises `TokenRevoked` where the user or the session is gone, deactivated or ended."""
        key = (claims.tenant_id, claims.user_id, claims.session_id)
        principal = self._cache.get(key, stamp)
        if principal is None:
            async with self._database.read(claims.tenant_id) as reader:
                row = await reader.fetch_one(_FIND, tenant_id=claims.tenant_id, user_id=claims.user_id, session_id=claims.session_id)
            if row is None:
                raise TokenRevoked
            principal = Principal(*row.values())
            if stamp is not None:
                self._cache.put(key, principal, stamp)
        return principal
