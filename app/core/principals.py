"""The caller: the user and session that an access token names, as they are now."""

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import and_, bindparam, func, select

from app.core.exceptions import TokenRevoked
from app.core.security import Claims
from app.core.stamps import Stamp, StampedCache
from app.database import Database, Query
from app.models import Session, User

ENDED_SESSIONS = 20_000


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
        # Each with its user. No stamps are needed for them, because they stay what they are.
        self._ended: OrderedDict[UUID, UUID] = OrderedDict()
        self._cache: StampedCache[tuple[UUID, UUID, UUID], Principal] = StampedCache()

    async def find(self, claims: Claims, stamp: Stamp | None) -> Principal:
        """Return the user of a token. Raises `TokenRevoked` where the user or the session is gone, deactivated or ended."""
        key = (claims.tenant_id, claims.user_id, claims.session_id)
        principal = self._cache.get(key, stamp)
        if principal is None:
            async with self._database.read(claims.tenant_id) as reader:
                row = await reader.fetch_one(_FIND, tenant_id=claims.tenant_id, user_id=claims.user_id, session_id=claims.session_id)
            if row is None:
                self._ended[claims.session_id] = claims.user_id
                if len(self._ended) > ENDED_SESSIONS:
                    self._ended.popitem(last=False)
                raise TokenRevoked
            principal = Principal(*row.values())
            if not principal.is_active:
                raise TokenRevoked
            if stamp is not None:
                self._cache.put(key, principal, stamp)
        return principal

    def has_ended(self, claims: Claims) -> bool:
        """Whether the token's session is known to have ended, or to be gone with its user: for good, whatever becomes of the user."""
        return self._ended.get(claims.session_id) == claims.user_id
