"""Sessions as their owner handles them: refreshed, listed, ended."""

from fastapi import APIRouter, Request, Response
from sqlalchemy import bindparam, func, select

from app.api.answers import JSONBytes
from app.api.deps import AllServices, AsViewer, ReadAsViewer
from app.api.documented import documented
from app.api.retry import RetryingRoute
from app.api.tenant_in_body import tenant_of_token
from app.core import exceptions as refused
from app.core.account_exceptions import RefreshTokenReused
from app.core.derived_tokens import TokenKind
from app.database import Query
from app.models import Session
from app.schemas.auth import SignedIn
from app.schemas.common import Id
from app.schemas.session import Refreshing, SessionList, SessionRead
from app.services.sessions import refresh_session, revoke_session, revoke_sessions
from app.utils.json import to_json

MOST_SHOWN = 100

router = APIRouter(prefix="/api/v1/auth", tags=["auth"], route_class=RetryingRoute)

LIVE = Query(
    select(*(getattr(Session, name) for name in SessionRead.model_fields if name != "current"))
    .where(
        Session.tenant_id == bindparam("tenant_id"),
        Session.user_id == bindparam("user_id"),
        Session.revoked_at.is_(None),
        Session.expires_at > func.now(),
    )
    .order_by(Session.last_used_at.desc(), Session.id.desc())
    .limit(MOST_SHOWN)
)


@router.post(
    "/refresh",
    responses=documented(refused.TokenInvalid, refused.TokenExpired, refused.TokenRevoked, RefreshTokenReused, refused.TenantInactive, guarded=False),
)
async def refresh(asked: Refreshing, request: Request, services: AllServices) -> SignedIn:
    """Refresh a session: exchange its refresh token for a new access token and a new refresh token.

    Each refresh token is good once. A repeat within ten seconds, after a lost answer or from a second tab, gets the same new refresh token again. One that
    comes back later may have been stolen: the whole session is ended. The token names its tenant, so no header has to.
    """
    tenant = await tenant_of_token(request, services, TokenKind.REFRESH, asked.refresh_token)
    client = request.client
    return await refresh_session(
        services, tenant, asked.refresh_token, ip_address=client.host if client else None, user_agent=request.headers.get("user-agent")
    )


@router.post("/logout", status_code=204, responses=documented())
async def logout(ctx: AsViewer) -> None:
    """End this session. Its access token and its refresh token stop working at once, on every server."""
    await revoke_session(ctx.session, ctx.tenant.id, ctx.user.id, ctx.session_id)
    await ctx.changed(ctx.user.id)


@router.post("/logout-all", status_code=204, responses=documented())
async def logout_all(ctx: AsViewer) -> None:
    """End every session of the caller, this one too."""
    await revoke_sessions(ctx.session, ctx.tenant.id, ctx.user.id)
    await ctx.changed(ctx.user.id)


@router.get("/sessions", response_model=SessionList, responses=documented())
async def list_sessions(caller: ReadAsViewer) -> Response:
    """List the caller's live sessions, the one that was used last first, a hundred at the most.

    `last_used_at` is the time of the last refresh, or of the sign-in where there was none yet; address and device are those of that time.
    """
    async with caller.read() as reader:
        rows = await reader.fetch(LIVE, tenant_id=caller.tenant.id, user_id=caller.user.id)
    return JSONBytes(to_json({"items": [{**row, "current": row["id"] == caller.session_id} for row in rows]}))


@router.delete("/sessions/{session_id}", status_code=204, responses=documented(refused.NotFound))
async def end_session(session_id: Id, ctx: AsViewer) -> None:
    """End one of the caller's sessions."""
    ctx.tell_again(ctx.user.id)
    if not await revoke_session(ctx.session, ctx.tenant.id, ctx.user.id, session_id):
        raise refused.NotFound
    await ctx.changed(ctx.user.id)
