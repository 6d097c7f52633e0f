"""Finds the tenant of a request and puts it into `request.state.tenant`."""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.exceptions import TenantInactive, TenantNotFound, TenantRequired
from app.core.tenancy import TenantDirectory, TenantInfo, TenantName, name_in_request
from app.middleware.trusted_host import header

API_PREFIX = "/api/v1/"

# These take the tenant's slug in the body, or a token that names the tenant, and read the tenant themselves, from PostgreSQL.
NAMED_IN_BODY = frozenset(
    f"/api/v1/auth/{name}" for name in ("register", "login", "refresh", "verify-email", "verify-email/resend", "password/forgot", "password/reset")
)
# This one is for people who have no tenant yet.
NEEDS_NO_TENANT = frozenset({"/api/v1/auth/captcha"})
NAMED_ELSEWHERE = NAMED_IN_BODY | NEEDS_NO_TENANT


class TenantMiddleware:
    """Resolves the tenant by X-Tenant-Slug, by subdomain, or by X-Tenant-ID, in that order."""

    def __init__(self, app: ASGIApp, directory: TenantDirectory, base_domain: str | None) -> None:
        self.app = app
        self._directory = directory
        self._base_domain = base_domain

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http" and scope["path"].startswith(API_PREFIX):
            state = scope["state"]
            name = name_in_request(header(scope, b"x-tenant-slug"), header(scope, b"host"), header(scope, b"x-tenant-id"), self._base_domain)
            state["tenant_name"] = name
            if scope["path"] not in NAMED_ELSEWHERE:
                known = None if name is None else self._directory.remembered(name)
                if known is None:
                    return self._look_up(name, scope, receive, send)
                state["tenant"] = known
        return self.app(scope, receive, send)

    async def _look_up(self, name: TenantName | None, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if name is None:
                raise TenantRequired
            scope["state"]["tenant"] = usable(await self._directory.load(name))
        except (TenantRequired, TenantNotFound, TenantInactive) as refusal:
            # Raised once the caller's address has been counted: most such look-ups are a query.
            scope["state"]["tenant_refusal"] = refusal
        await self.app(scope, receive, send)


def usable(tenant: TenantInfo | None) -> TenantInfo:
    """Return the tenant. Raises `TenantNotFound` where there is none, `TenantInactive` where it is suspended."""
    if tenant is None:
        raise TenantNotFound
    if not tenant.is_active:
        raise TenantInactive
    return tenant
