"""Resources: the documents within a project."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, Index, PrimaryKeyConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import TenantModel, same_tenant_key, tenant_key


class Resource(TenantModel):
    """A named JSON document of a project. Deleting one is final."""

    __tablename__ = "resources"
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        tenant_key(),
        same_tenant_key("project_id", "projects", ondelete="CASCADE"),
        same_tenant_key("created_by", "users"),
        Index(None, "tenant_id", "created_at", "id"),
        Index(None, "tenant_id", "updated_at", "id"),
        Index(None, "tenant_id", "name", "id"),
        Index(None, "tenant_id", "project_id", "created_at", "id"),
        Index(None, "tenant_id", "type", "created_at", "id"),
        Index(None, "tenant_id", "created_by"),
    )

    project_id: Mapped[UUID]
    name: Mapped[str]
    type: Mapped[str]
    # json, not jsonb: nothing looks inside, and jsonb writes 1e308 out in 309 digits, which lets 64 KiB grow fifty times as large.
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    version: Mapped[int] = mapped_column(server_default="1")
    created_by: Mapped[UUID | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), sort_order=91)
