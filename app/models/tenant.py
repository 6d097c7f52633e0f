"""The tenant: the boundary that everything else lies within."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, new_id


class Tier(StrEnum):
    """What a tenant has subscribed to."""

    FREE = "free"
    BASIC = "basic"
    PREMIUM = "premium"
    ENTERPRISE = "enterprise"


class RegistrationPolicy(StrEnum):
    """What happens when somebody registers with the slug of a tenant that exists."""

    APPROVAL = "approval"
    OPEN = "open"
    INVITE_ONLY = "invite_only"


class Tenant(Base):
    """A customer. Worldwide by nature: it is read before anybody knows which tenant a request belongs to."""

    __tablename__ = "tenants"
    __table_args__ = (
        UniqueConstraint("slug"),
        UniqueConstraint("subdomain"),
        CheckConstraint("slug ~ '^[a-z0-9](?:[a-z0-9-]{1,61}[a-z0-9])$'", name="slug_form"),
        CheckConstraint("subdomain ~ '^[a-z0-9](?:[a-z0-9-]{1,61}[a-z0-9])$'", name="subdomain_form"),
        CheckConstraint("subscription_tier IN ('free', 'basic', 'premium', 'enterprise')", name="subscription_tier"),
        CheckConstraint("registration_policy IN ('approval', 'open', 'invite_only')", name="registration_policy"),
        CheckConstraint("rate_limit_per_minute BETWEEN 1 AND 1000000", name="rate_limit_per_minute"),
        CheckConstraint("rate_limit_burst BETWEEN 1 AND 1000000", name="rate_limit_burst"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    slug: Mapped[str]
    subdomain: Mapped[str | None]
    name: Mapped[str]
    is_active: Mapped[bool] = mapped_column(server_default="true")
    subscription_tier: Mapped[str] = mapped_column(server_default=Tier.FREE)
    rate_limit_per_minute: Mapped[int | None]
    rate_limit_burst: Mapped[int | None]
    registration_policy: Mapped[str] = mapped_column(server_default=RegistrationPolicy.APPROVAL)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
