"""Invitations into a tenant."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from sqlalchemy import bindparam, delete, select

from app.api.answers import JSONBytes
from app.api.deps import AsAdmin, ReadAsAdmin
from app.api.documented import documented
from app.api.listing import Listing
from app.api.query import parameters_of, query_of
from app.api.retry import RetryingRoute
from app.core.account_exceptions import MailThrottled
from app.core.exceptions import EmailTaken, NotFound
from app.models import Invitation, MailTemplate
from app.schemas.common import Id, Page
from app.schemas.invitation import InvitationCreate, InvitationList, InvitationRead
from app.services.account_mail import refuse_flood
from app.services.invitations import IS_OPEN, put_invitation
from app.services.mail import post
from app.services.registration import refuse_taken

router = APIRouter(prefix="/api/v1/users/invitations", tags=["users"], route_class=RetryingRoute)

LIST = Listing(
    select(Invitation).where(Invitation.tenant_id == bindparam("tenant_id"), IS_OPEN),
    model=Invitation,
    columns=tuple(InvitationRead.model_fields),
    filters={"role": Invitation.role == bindparam("role")},
    search=(Invitation.email,),
)


@router.get("", response_model=Page[InvitationRead], responses=documented(), openapi_extra=parameters_of(InvitationList))
async def list_invitations(caller: ReadAsAdmin, asked: Annotated[InvitationList, Depends(query_of(InvitationList))]) -> Response:
    """List the open invitations. Admins only. `q` looks in the address."""
    async with caller.read() as reader:
        return JSONBytes(await LIST.answer(reader, caller.services.cursors, caller.tenant.id, asked))


@router.post("", status_code=201, responses=documented(EmailTaken, MailThrottled))
async def invite(new: InvitationCreate, ctx: AsAdmin, response: Response) -> InvitationRead:
    """Invite an address. Admins only.

    A link is mailed to it, with which whoever reads that mail registers once, within 7 days, in the given role. Inviting an address again replaces
    its invitation: the earlier link is no longer good.
    """
    invitation = await put_invitation(ctx.session, ctx.services.derived_tokens, ctx.tenant.id, email=new.email, role=new.role, invited_by=ctx.user.id)
    # Asked afterwards: it may have waited for a registration with the invitation that it replaces.
    await refuse_taken(ctx.session, ctx.tenant.id, new.email)
    await refuse_flood(ctx.services, ctx.tenant.id, ctx.user.id, new.email)
    await post(ctx.session, ctx.tenant.id, MailTemplate.INVITATION, new.email, subject_id=invitation.id)
    response.headers["Location"] = f"/api/v1/users/invitations/{invitation.id}"
    return InvitationRead.model_validate(invitation)


@router.delete("/{invitation_id}", status_code=204, responses=documented(NotFound))
async def withdraw_invitation(invitation_id: Id, ctx: AsAdmin) -> None:
    """Withdraw an invitation: its link is no longer good. Admins only."""
    withdrawing = delete(Invitation).where(Invitation.tenant_id == ctx.tenant.id, Invitation.id == invitation_id, IS_OPEN).returning(Invitation.id)
    if (await ctx.session.execute(withdrawing, execution_options={"synchronize_session": False})).scalar_one_or_none() is None:
        raise NotFound
