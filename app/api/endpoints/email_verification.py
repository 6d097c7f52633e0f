"""Verifying that somebody reads the mail of an address."""

from fastapi import APIRouter, Request, Response

from app.api.deps import AllServices
from app.api.documented import documented
from app.api.retry import RetryingRoute
from app.api.tenant_in_body import agree_on_slug, tenant_of_token
from app.core import exceptions as refused
from app.core.account_exceptions import LinkInvalid
from app.core.derived_tokens import TokenKind
from app.models import MailTemplate
from app.schemas.auth import Account, MailedToken, MailRequested
from app.services.account_mail import ask_for_mail
from app.services.email_verification import verify_email

router = APIRouter(prefix="/api/v1/auth/verify-email", tags=["auth"], route_class=RetryingRoute)


@router.post("", status_code=204, responses=documented(LinkInvalid, refused.TenantInactive, refused.EmailTaken, guarded=False))
async def verify(mailed: MailedToken, request: Request, services: AllServices) -> Response:
    """Verify an address with the token of a mailed link. Where the link was mailed to a new address, that becomes the user's."""
    tenant = await tenant_of_token(request, services, TokenKind.MAILED, mailed.token)
    if tenant is None:
        raise LinkInvalid
    await verify_email(services, tenant, mailed.token)
    return Response(status_code=204)


@router.post("/resend", status_code=202, responses=documented(guarded=False))
async def resend(asked: Account, request: Request, services: AllServices) -> MailRequested:
    """Mail the link that verifies an address again. The answer is the same whether there is such a user or not. The link is good for 24 hours, and once."""
    await agree_on_slug(request, services, asked.tenant_slug)
    client = request.client.host if request.client else None
    await ask_for_mail(services, MailTemplate.VERIFY_EMAIL, email=asked.email, tenant_slug=asked.tenant_slug, client=client)
    return MailRequested()
