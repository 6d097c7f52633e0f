"""Takes each request's tokens, and with the same call to Redis makes sure that what is known of its tenant is current."""

from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.exceptions import NotAuthenticated, RateLimited, TokenInvalid, TokenRevoked
from app.core.limits import Admission, RateLimiter
from app.core.principals import PrincipalDirectory
from app.core.security import AccessTokens, Claims
from app.core.tenancy import TenantDirectory
from app.middleware.request_context import add_headers
from app.middleware.tenant import API_PREFIX, usable
from app.middleware.trusted_host import header
from app.utils import metrics


class RateLimitMiddleware:
    """Limits a caller whose token is one of the tenant's by the tenant's and the user's bucket, anybody else by their address.

    A stranger therefore never spends a tenant's tokens; nor does whoever was one of the tenant's, once their session was found to have ended. Puts `claims` or
    `token_refusal`, `rate` and the confirmed `tenant` into `request.state`.
    """

    def __init__(self, app: ASGIApp, limiter: RateLimiter, tokens: AccessTokens, directory: TenantDirectory, principals: PrincipalDirectory) -> None:
        self.app = app
        self._limiter = limiter
        self._tokens = tokens
        self._directory = directory
        self._principals = principals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(API_PREFIX):
            try:
                scope["state"]["rate"] = admission = await self._admit(scope)
            except RateLimited:
                metrics.RATE_LIMITED.labels("tenant" if scope["state"].get("claims") else "address").inc()
                raise
            add_headers(scope, admission.headers)
            if (refusal := scope["state"].get("tenant_refusal")) is not None:
                raise refusal
        await self.app(scope, receive, send)

    async def _admit(self, scope: Scope) -> Admission:
        state = scope["state"]
        claims = state["claims"] = self._claims(scope)
        tenant = state.get("tenant")
        if tenant is not None and claims is not None and claims.tenant_id != tenant.id:
            # The name may have passed to the caller's tenant since we last looked.
            tenant = state["tenant"] = usable(await self._directory.load(state["tenant_name"]))
        if tenant is None or claims is None or claims.tenant_id != tenant.id:
            client = scope.get("client")
            return await self._limiter.admit_anonymous(client[0] if client else "unknown")
        admission = await self._limiter.admit(tenant, claims)
        # The name may have passed to another tenant since we last looked; then the caller's token is refused as one of another tenant.
        state["tenant"] = usable(await self._directory.confirm(state["tenant_name"], admission.stamp))
        return admission

    def _claims(self, scope: Scope) -> Claims | None:
        """Return the claims of the bearer token, or None with the reason left in the state for whoever demands a token."""
        scheme, _, token = (header(scope, b"authorization") or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            scope["state"]["token_refusal"] = NotAuthenticated()
            return None
        try:
            claims = self._tokens.verify(token.strip())
        except TokenInvalid as refusal:
            scope["state"]["token_refusal"] = refusal
            return None
        if self._principals.has_ended(claims):
            scope["state"]["token_refusal"] = TokenRevoked()
            return None
        return claims
