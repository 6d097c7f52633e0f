"""Projects: what a tenant's people work on."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, PrimaryKeyConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import TenantModel, same_tenant_key, tenant_key


class ProjectStatus(StrEnum):
    """Where a project stands."""

    ACTIVE = "active"
    ON_HOLD = "on_hold"
    COMPLETED = "completed"
    ARCHIVED = "archived"


# How long a deleted project can be restored.
RECOVERABLE_DAYS = 30


class Project(TenantModel):
    """A project. Deleting one is soft: it can be restored until it is purged."""

    __tablename__ = "projects"
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        tenant_key(),
        same_tenant_key("owner_id", "users"),
        CheckConstraint("status IN ('active', 'on_hold', 'completed', 'archived')", name="status"),
        CheckConstraint("is_deleted = (deleted_at IS NOT NULL)", name="deleted_at"),
        Index(None, "tenant_id", "is_deleted", "created_at", "id"),
        Index(None, "tenant_id", "is_deleted", "updated_at", "id"),
        Index(None, "tenant_id", "is_deleted", "name", "id"),
        Index(None, "tenant_id", "is_deleted", "status", "created_at", "id"),
        Index(None, "tenant_id", "owner_id"),
    )

    name: Mapped[str]
    description: Mapped[str | None]
    status: Mapped[str] = mapped_column(server_default=ProjectStatus.ACTIVE)
    owner_id: Mapped[UUID | None]
    view_count: Mapped[int] = mapped_column(BigInteger, server_default="0")
    is_deleted: Mapped[bool] = mapped_column(server_default="false")
    deleted_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(server_default="1")
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), sort_order=91)
