"""Passwords that are forgotten, reset and changed."""

from fastapi import APIRouter, Request, Response

from app.api.deps import AllServices, ReadAsViewer
from app.api.documented import documented
from app.api.retry import RetryingRoute
from app.api.tenant_in_body import agree_on_slug, tenant_of_token
from app.core import exceptions as refused
from app.core.account_exceptions import CaptchaInvalid, CaptchaRequired, LinkInvalid, SignInThrottled, WrongPassword
from app.core.derived_tokens import TokenKind
from app.core.passwords import refuse_weak
from app.models import MailTemplate
from app.schemas.auth import ForgottenPassword, MailRequested, NewPassword, PasswordChange
from app.services.account_mail import ask_for_mail
from app.services.passwords import change_password, reset_password, verified_password

router = APIRouter(prefix="/api/v1/auth/password", tags=["auth"], route_class=RetryingRoute)


@router.post("/forgot", status_code=202, responses=documented(CaptchaRequired, CaptchaInvalid, guarded=False))
async def forgot(asked: ForgottenPassword, request: Request, services: AllServices) -> MailRequested:
    """Mail a link that sets a new password. The answer is the same whether there is such a user or not.

    The link is good for 30 minutes, and once. Where the installation demands it, `captcha` is a solved challenge of `GET /api/v1/auth/captcha`.
    """
    await agree_on_slug(request, services, asked.tenant_slug)
    await services.captcha.demand(asked.captcha)
    client = request.client.host if request.client else None
    await ask_for_mail(services, MailTemplate.RESET_PASSWORD, email=asked.email, tenant_slug=asked.tenant_slug, client=client)
    return MailRequested()


@router.post(
    "/reset",
    status_code=204,
    responses=documented(LinkInvalid, refused.TenantInactive, refused.WeakPassword, refused.Overloaded, guarded=False),
)
async def reset(new: NewPassword, request: Request, services: AllServices) -> Response:
    """Set a new password with the token of a mailed link. Ends every session of the user."""
    tenant = await tenant_of_token(request, services, TokenKind.MAILED, new.token)
    if tenant is None:
        raise LinkInvalid
    await reset_password(services, tenant, new.token, new.password, ip_address=request.client.host if request.client else None)
    return Response(status_code=204)


@router.post("/change", status_code=204, responses=documented(WrongPassword, SignInThrottled, refused.WeakPassword, refused.Overloaded))
async def change(new: PasswordChange, caller: ReadAsViewer) -> Response:
    """Change one's own password. Ends every other session of the caller."""
    tenant, services = caller.tenant, caller.services
    refuse_weak(new.new_password, email=caller.user.email, tenant_name=tenant.name, tenant_slug=tenant.slug, field="new_password")
    user = await verified_password(services, tenant, caller.user.id, new.current_password)
    password_hash = await services.passwords.hash(new.new_password)
    async with caller.write() as ctx:
        await change_password(ctx.session, user, password_hash, keep=caller.session_id)
        await ctx.changed(user.id)
    return Response(status_code=204)
