"""Invitations: made by an admin, mailed, and used up by registering."""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.account_exceptions import InvitationInvalid
from app.core.derived_tokens import DerivedTokens, TokenKind, TokenName, name_of, token_hash
from app.models import Invitation, Role, new_id

LIFETIME = timedelta(days=7)
IS_OPEN = Invitation.expires_at > func.now()


async def put_invitation(session: AsyncSession, tokens: DerivedTokens, tenant_id: UUID, *, email: str, role: Role, invited_by: UUID) -> Invitation:
    """Invite an address, in place of an invitation that it has. The earlier one's link opens nothing any more."""
    invitation_id = new_id()
    token = tokens.make(TokenKind.INVITATION, TokenName(tenant_id, invitation_id))
    values = {
        "id": invitation_id,
        "role": role,
        "invited_by": invited_by,
        "token_hash": token_hash(token),
        "created_at": func.now(),
        "expires_at": func.now() + LIFETIME,
    }
    inviting = insert(Invitation).values(tenant_id=tenant_id, email=email, **values)
    inviting = inviting.on_conflict_do_update(index_elements=["tenant_id", "email"], set_=values)
    return (await session.execute(inviting.returning(Invitation))).scalar_one()


async def use_invitation(session: AsyncSession, tenant_id: UUID, token: str, email: str) -> Role:
    """Use up the invitation that the token was made for, and return its role. Raises `InvitationInvalid`, whatever is wrong with the token.

    One statement decides: of two who use a token at once, one finds no row any more.
    """
    name = name_of(token)
    if name is None:
        raise InvitationInvalid
    using = (
        delete(Invitation)
        .where(
            Invitation.tenant_id == tenant_id,
            Invitation.id == name.row_id,
            Invitation.token_hash == token_hash(token),
            Invitation.email == email,
            IS_OPEN,
        )
        .returning(Invitation.role)
    )
    role = (await session.execute(using, execution_options={"synchronize_session": False})).scalar_one_or_none()
    if role is None:
        raise InvitationInvalid
    return Role(role)
