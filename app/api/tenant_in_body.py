"""Calls to /auth whose body names the tenant: by its slug, or by a token that belongs to it. Headers need not name it again, but must not disagree."""

from fastapi import Request

from app.core.derived_tokens import TokenKind, name_of
from app.core.exceptions import TenantInactive, TenantRequired
from app.core.tenancy import TenantInfo, TenantName
from app.services.container import Services


async def agree_on_slug(request: Request, services: Services, slug: str) -> None:
    """Raise `TenantRequired` where the headers name another tenant than the body."""
    name: TenantName | None = request.scope["state"]["tenant_name"]
    slug = slug.strip().lower()
    if name is None or (name.kind == "slug" and name.value == slug):
        return
    named = None if name.kind == "slug" else await services.tenants.load(name)
    if named is None and name.kind == "subdomain" and name.value == slug:
        return
    if named is None or named.slug != slug:
        raise TenantRequired("The headers or the host name another tenant than `tenant_slug`. Name one tenant only.")


async def tenant_of_token(request: Request, services: Services, kind: TokenKind, token: str) -> TenantInfo | None:
    """Return the tenant that a token in the body belongs to; None where there is none, or the headers name another.

    Raises `TenantInactive`, to whoever has a token of ours: a made-up one learns nothing of a tenant.
    """
    said = name_of(token)
    tenant = None if said is None else await services.tenants.load(TenantName("id", str(said.tenant_id)))
    name: TenantName | None = request.scope["state"]["tenant_name"]
    if tenant is None:
        return None
    named = tenant if name is None else await services.tenants.load(name)
    if named is None or named.id != tenant.id:
        return None
    if tenant.is_active:
        return tenant
    if services.derived_tokens.is_ours(kind, token):
        raise TenantInactive
    return None
