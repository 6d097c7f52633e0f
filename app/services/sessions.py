"""The life of sessions after sign-in: refreshed, and ended, also because there are too many."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Row, case, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.account_exceptions import RefreshTokenReused
from app.core.derived_tokens import LAST_NUMBER, DerivedTokens, TokenKind, TokenName, name_of, token_hash
from app.core.exceptions import TokenExpired, TokenInvalid, TokenRevoked
from app.core.tenancy import TenantInfo
from app.models import Session, User
from app.schemas.auth import SignedIn
from app.schemas.user import UserRead
from app.services.changes import Changes, telling
from app.services.container import Services
from app.utils import metrics

GRACE = timedelta(seconds=10)
# Whoever refreshes more often than this within the time of grace is no person with two tabs.
REMEMBERED_REFRESHES = 8
LONGEST_USER_AGENT = 400
# Of one user. So few that one statement ends all of them, and a sign-in can look through them.
MOST_SESSIONS = 1_000
_UNSYNCHRONIZED = {"synchronize_session": False}
_OF_USER = [getattr(User, name) for name in UserRead.model_fields]

AnyRow = Row[*tuple[Any, ...]]

log = structlog.get_logger(__name__)


def signed_in(services: Services, tenant_id: UUID, session_id: UUID, refresh_token: str, user: UserRead) -> SignedIn:
    """Return a session's tokens: this refresh token, and a new access token."""
    return SignedIn(
        access_token=services.tokens.issue(user_id=user.id, tenant_id=tenant_id, session_id=session_id, role=user.role),
        expires_in=services.tokens.lifetime,
        refresh_token=refresh_token,
        refresh_expires_in=services.settings.refresh_token_days * 86_400,
        user=user,
    )


async def refresh_session(services: Services, tenant: TenantInfo | None, token: str, *, ip_address: str | None, user_agent: str | None) -> SignedIn:
    """Exchange a refresh token for its successor and a new access token. `tenant` is the one that token and request agree on.

    For ten seconds after its use, a token gets the session's current one again: an answer was lost, or two tabs asked at once. Later, two parties hold the
    session's tokens, and it is ended for both (RFC 9700, section 4.14.2).

    Raises `TokenInvalid`, `TokenExpired`, `TokenRevoked`, and `RefreshTokenReused` once the end of the session is committed.
    """
    name = name_of(token)
    if tenant is None or name is None or name.number == LAST_NUMBER:
        metrics.SESSION_REFRESHES.labels(TokenInvalid.code).inc()
        raise TokenInvalid
    successor = services.derived_tokens.make(TokenKind.REFRESH, name._replace(number=name.number + 1))
    values = {
        "refresh_token_hash": token_hash(successor),
        "expires_at": func.now() + timedelta(days=services.settings.refresh_token_days),
        "ip_address": ip_address,
        "user_agent": user_agent[:LONGEST_USER_AGENT] if user_agent else None,
    }
    result: str | TokenInvalid = successor
    outcome = "rotated"
    async with telling(services.stamps, tenant.id) as changes, services.database.transaction(tenant.id) as session:
        row = await _rotate(session, name, token, values)
        if row is None:
            row, result = await _look_again(services.derived_tokens, session, changes, name, token)
            outcome = result.code if isinstance(result, TokenInvalid) else "repeated"
    metrics.SESSION_REFRESHES.labels(outcome).inc()
    if row is not None and isinstance(result, RefreshTokenReused):
        log.warning("refresh_token_reused", tenant_id=str(tenant.id), user_id=str(row.id), session_id=str(name.row_id))
    # Raised only now: within the transaction, it would take back that the session is ended.
    if isinstance(result, TokenInvalid):
        raise result
    return signed_in(services, tenant.id, name.row_id, result, UserRead.model_validate(row))


async def _rotate(session: AsyncSession, name: TokenName, token: str, values: dict[str, Any]) -> AnyRow | None:
    """Put the successor in the place of a live session's current token, and return the user; None for all but one of many at once."""
    rotation = (
        update(Session)
        .where(
            Session.tenant_id == name.tenant_id,
            Session.id == name.row_id,
            Session.refresh_token_hash == token_hash(token),
            Session.revoked_at.is_(None),
            Session.expires_at > func.now(),
            User.tenant_id == name.tenant_id,
            User.id == Session.user_id,
            User.is_active,
        )
        .values(
            previous_token_hash=Session.refresh_token_hash,
            refresh_count=Session.refresh_count + 1,
            earlier_refreshes=case(
                (Session.refreshed_at.is_(None), Session.earlier_refreshes),
                else_=func.array_prepend(Session.refreshed_at, Session.earlier_refreshes[1 : REMEMBERED_REFRESHES - 1]),
            ),
            refreshed_at=func.now(),
            last_used_at=func.now(),
            **values,
        )
        .returning(*_OF_USER)
    )
    return (await session.execute(rotation, execution_options=_UNSYNCHRONIZED)).one_or_none()


async def _look_again(tokens: DerivedTokens, session: AsyncSession, changes: Changes, name: TokenName, token: str) -> tuple[AnyRow | None, str | TokenInvalid]:
    """Look at a session whose current token was not presented, and end it where an old one was. Returns its user, and the successor or the refusal."""
    found = (
        select(
            *_OF_USER,
            Session.refresh_token_hash,
            Session.previous_token_hash,
            Session.refresh_count,
            Session.revoked_at,
            (Session.expires_at <= func.now()).label("is_expired"),
            Session.refreshed_at,
            Session.earlier_refreshes,
            func.now().label("now"),
        )
        .join(User, User.id == Session.user_id)
        .where(Session.tenant_id == name.tenant_id, User.tenant_id == name.tenant_id, Session.id == name.row_id)
    )
    row = (await session.execute(found)).one_or_none()
    result = _same_again(tokens, row, name, token)
    if row is not None and isinstance(result, RefreshTokenReused):
        await revoke_session(session, name.tenant_id, row.id, name.row_id)
        await changes.announce(session, row.id)
    return row, result


def _same_again(tokens: DerivedTokens, row: AnyRow | None, name: TokenName, token: str) -> str | TokenInvalid:
    """Return the session's current token for one that was exchanged only seconds ago, or why it gets none.

    Whoever can only guess at a session's token learns nothing of the session, and does nothing to it.
    """
    digest = token_hash(token)
    is_known = row is not None and digest in (row.refresh_token_hash, row.previous_token_hash)
    if not is_known and not tokens.is_ours(TokenKind.REFRESH, token):
        return TokenInvalid()
    # With its user, a session is deleted.
    if row is None or row.revoked_at is not None or not row.is_active:
        return TokenRevoked()
    if row.is_expired:
        return TokenExpired()
    if _was_used_lately(row, name.number):
        return tokens.again(TokenKind.REFRESH, name._replace(number=row.refresh_count), row.refresh_token_hash) or TokenInvalid()
    # One that is ahead of the session: of a database that was put back to an earlier time.
    return RefreshTokenReused() if name.number < row.refresh_count else TokenInvalid()


def _was_used_lately(row: AnyRow, number: int) -> bool:
    """Whether the session's token of this number was exchanged within the time of grace."""
    uses, back = [row.refreshed_at, *row.earlier_refreshes], row.refresh_count - number
    return 0 < back <= len(uses) and bool(uses[back - 1] > row.now - GRACE)


async def revoke_session(session: AsyncSession, tenant_id: UUID, user_id: UUID, session_id: UUID) -> bool:
    """End a live session of a user. Returns whether there was one. Whoever calls announces the change of the user."""
    ending = (
        update(Session)
        .where(
            Session.tenant_id == tenant_id,
            Session.id == session_id,
            Session.user_id == user_id,
            Session.revoked_at.is_(None),
            Session.expires_at > func.now(),
        )
        .values(revoked_at=func.now())
        .returning(Session.id)
    )
    return (await session.execute(ending, execution_options=_UNSYNCHRONIZED)).one_or_none() is not None


async def revoke_sessions(session: AsyncSession, tenant_id: UUID, user_id: UUID, *, keep: UUID | None = None) -> None:
    """End all sessions of a user, or all but the one to keep. Whoever calls announces the change of the user."""
    ending = update(Session).where(Session.tenant_id == tenant_id, Session.user_id == user_id, Session.revoked_at.is_(None)).values(revoked_at=func.now())
    if keep is not None:
        ending = ending.where(Session.id != keep)
    await session.execute(ending, execution_options=_UNSYNCHRONIZED)


async def make_room(session: AsyncSession, changes: Changes, tenant_id: UUID, user_id: UUID) -> None:
    """Delete what keeps a user from one session more: those that have ended first, then the ones that were used least lately.

    To be called with the user's row locked. Whoever could open any number of sessions could not be deactivated: to end them would take too long.
    """
    kept_first = (Session.revoked_at.is_not(None), Session.last_used_at.desc())
    of_user = select(Session.id).where(Session.tenant_id == tenant_id, Session.user_id == user_id)
    too_many = of_user.order_by(*kept_first).offset(MOST_SESSIONS - 1).limit(MOST_SESSIONS)
    deleting = delete(Session).where(Session.tenant_id == tenant_id, Session.id.in_(too_many)).returning(Session.id)
    if (await session.execute(deleting, execution_options=_UNSYNCHRONIZED)).all():
        await changes.announce(session, user_id)
