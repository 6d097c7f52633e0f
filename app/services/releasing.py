"""Taking a user out of what stays when the user is deleted, in parts: no statement may take long, nor a transaction that holds the tenant's row."""

from typing import Any
from uuid import UUID

from sqlalchemy import CursorResult, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from app.models import Invitation, Project, Resource, Session, TenantModel

# Of each kind, in one transaction.
AT_ONCE = 1000

# Not ON DELETE SET NULL: a distributed table cannot have it.
_REFERENCES: tuple[tuple[type[TenantModel], InstrumentedAttribute[Any]], ...] = (
    (Project, Project.owner_id),
    (Resource, Resource.created_by),
    (Invitation, Invitation.invited_by),
)


async def release_some(session: AsyncSession, tenant_id: UUID, user_id: UUID) -> bool:
    """Have so many of the user's projects, resources and invitations be nobody's, and delete so many sessions. Returns whether that was all."""
    is_all = True
    for model, column in _REFERENCES:
        some = select(model.id).where(model.tenant_id == tenant_id, column == user_id).limit(AT_ONCE)
        is_all &= await _is_less(session, update(model).where(model.tenant_id == tenant_id, model.id.in_(some)).values({column.key: None}))
    ended = select(Session.id).where(Session.tenant_id == tenant_id, Session.user_id == user_id).limit(AT_ONCE)
    return is_all & await _is_less(session, delete(Session).where(Session.tenant_id == tenant_id, Session.id.in_(ended)))


async def _is_less(session: AsyncSession, statement: Any) -> bool:
    result = await session.execute(statement, execution_options={"synchronize_session": False})
    return isinstance(result, CursorResult) and result.rowcount < AT_ONCE
