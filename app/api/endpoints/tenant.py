"""The caller's tenant."""

from fastapi import APIRouter
from sqlalchemy import exists, func, or_, select

from app.api.deps import AsAdmin, ReadAsViewer
from app.api.documented import documented
from app.api.retry import RetryingRoute
from app.core.exceptions import SubdomainTaken
from app.models import Tenant
from app.schemas.tenant import TenantRead, TenantUpdate
from app.services.registration import lock_tenant_names

router = APIRouter(prefix="/api/v1/tenant", tags=["tenant"], route_class=RetryingRoute)


@router.get("", responses=documented())
async def read_tenant(caller: ReadAsViewer) -> TenantRead:
    """Show the caller's tenant."""
    return TenantRead.model_validate(caller.tenant)


@router.patch("", responses=documented(SubdomainTaken))
async def update_tenant(change: TenantUpdate, ctx: AsAdmin) -> TenantRead:
    """Change the tenant's name, subdomain or registration policy. Admins only."""
    # All that the change will need, at once: a new subdomain, being unique, needs the row from writes that merely refer to it, too.
    needs_all = "subdomain" in change.model_fields_set
    tenant = await ctx.get_or_404(select(Tenant).where(Tenant.id == ctx.tenant.id).with_for_update(key_share=not needs_all))
    changes = change.changes_to(tenant)
    if (subdomain := changes.get("subdomain")) is not None:
        # Last, and after it nothing is waited for: the tenant's own requests may hold its row for long, and all tenants wait for the names.
        await lock_tenant_names(ctx.session)
        taken = exists().where(Tenant.id != ctx.tenant.id, or_(Tenant.slug == subdomain, Tenant.subdomain == subdomain))
        if (await ctx.session.execute(select(taken))).scalar_one():
            raise SubdomainTaken
    if changes:
        for name, value in changes.items():
            setattr(tenant, name, value)
        tenant.updated_at = func.now()
        await ctx.session.flush()
        await ctx.session.refresh(tenant)
        await ctx.changed()
    return TenantRead.model_validate(tenant)
