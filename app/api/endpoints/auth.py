"""Registration, sign-in, and who the caller is."""

from fastapi import APIRouter, Request

from app.api.deps import AllServices, ReadAsViewer
from app.api.documented import documented
from app.api.retry import RetryingRoute
from app.api.tenant_in_body import agree_on_slug
from app.core import exceptions as refused
from app.core.account_exceptions import CaptchaInvalid, CaptchaRequired, EmailNotVerified, InvitationInvalid, SignInThrottled
from app.core.permissions import permissions_of
from app.schemas.auth import Challenge, Credentials, Me, Registered, Registration, SignedIn
from app.schemas.tenant import TenantRead
from app.schemas.user import UserRead
from app.services.registration import register as register_person
from app.services.sign_in import sign_in

router = APIRouter(prefix="/api/v1/auth", tags=["auth"], route_class=RetryingRoute)


@router.post(
    "/register",
    status_code=201,
    responses=documented(
        refused.EmailTaken,
        refused.SlugTaken,
        refused.RegistrationClosed,
        InvitationInvalid,
        refused.TenantInactive,
        refused.WeakPassword,
        CaptchaRequired,
        CaptchaInvalid,
        refused.Overloaded,
        guarded=False,
    ),
)
async def register(asked: Registration, request: Request, services: AllServices) -> Registered:
    """Register: found a tenant, or join one.

    A free slug makes the tenant and its first user, an admin. A slug that exists: joins it as the tenant's `registration_policy` says,
    or, with the token of an invitation to this address, whatever the policy, in the invitation's role. Where the installation demands it,
    `captcha` is a solved challenge of `GET /api/v1/auth/captcha`.
    """
    await agree_on_slug(request, services, asked.tenant_slug)
    return await register_person(services, asked)


@router.post(
    "/login",
    responses=documented(
        refused.InvalidCredentials,
        refused.AccountInactive,
        EmailNotVerified,
        refused.TenantInactive,
        SignInThrottled,
        refused.Overloaded,
        guarded=False,
    ),
)
async def login(asked: Credentials, request: Request, services: AllServices) -> SignedIn:
    """Sign in: exchange an address and a password for tokens.

    Send the access token as `Authorization: Bearer …`, together with `X-Tenant-Slug`.
    """
    await agree_on_slug(request, services, asked.tenant_slug)
    client = request.client
    return await sign_in(services, asked, ip_address=client.host if client else None, user_agent=request.headers.get("user-agent"))


@router.get("/captcha", responses=documented(guarded=False))
async def captcha(services: AllServices) -> Challenge:
    """Get a proof-of-work challenge. Solved, it is good for one registration or one forgotten password, within ten minutes.

    It is a challenge of ALTCHA, version 2: find the number whose derivation from `nonce` and `salt` begins with `keyPrefix`. The solution is the JSON
    `{"challenge": …, "solution": {"counter": …, "derivedKey": …}}` in base64.
    """
    return Challenge.model_validate(services.captcha.challenge())


@router.get("/me", responses=documented())
async def me(caller: ReadAsViewer) -> Me:
    """Show the caller, its tenant, and what its role may do."""
    return Me(user=UserRead.model_validate(caller.user), tenant=TenantRead.model_validate(caller.tenant), permissions=permissions_of(caller.user.role))
