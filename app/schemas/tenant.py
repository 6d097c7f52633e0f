"""Tenants, as clients see them."""

from uuid import UUID

from pydantic import ConfigDict
from pydantic.config import JsonDict

from app.models import RegistrationPolicy, Tier
from app.schemas.common import EXAMPLE_ID, EXAMPLE_TIME, Change, Name, NewSlug, NotNull, Read, Time

TENANT_EXAMPLE: JsonDict = {
    "id": str(EXAMPLE_ID),
    "slug": "acme",
    "subdomain": "acme",
    "name": "Acme",
    "is_active": True,
    "subscription_tier": "free",
    "rate_limit_per_minute": None,
    "rate_limit_burst": None,
    "registration_policy": "approval",
    "created_at": EXAMPLE_TIME,
}


class TenantSummary(Read):
    """As much of a tenant as a newcomer may know."""

    id: UUID
    slug: str
    subdomain: str | None
    name: str


class TenantRead(TenantSummary):
    """The caller's tenant."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"example": TENANT_EXAMPLE})

    is_active: bool
    subscription_tier: Tier
    rate_limit_per_minute: int | None
    rate_limit_burst: int | None
    registration_policy: RegistrationPolicy
    created_at: Time


class TenantUpdate(Change):
    """What an admin may change of the tenant."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"name": "Acme Ltd", "registration_policy": "open"}})

    name: NotNull[Name] = None
    subdomain: NewSlug | None = None
    registration_policy: NotNull[RegistrationPolicy] = None
