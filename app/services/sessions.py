"""The life of sessions after sign-in."""

from uuid import UUID

from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Session


async def revoke_sessions(session: AsyncSession, tenant_id: UUID, user_id: UUID, *, keep: UUID | None = None) -> None:
    """End all sessions of a user, or all but the one to keep. Whoever calls renews the user's stamp after the commit, so that every server feels it."""
    ending = update(Session).where(Session.tenant_id == tenant_id, Session.user_id == user_id, Session.revoked_at.is_(None)).values(revoked_at=func.now())
    if keep is not None:
        ending = ending.where(Session.id != keep)
    await session.execute(ending, execution_options={"synchronize_session": False})
