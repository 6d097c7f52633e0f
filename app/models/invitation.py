"""Invitations into a tenant."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, LargeBinary, PrimaryKeyConstraint, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import TenantModel, same_tenant_key, tenant_key


class Invitation(TenantModel):
    """An open invitation. It is gone once it is accepted or withdrawn; of its token only the SHA-256 is kept."""

    __tablename__ = "invitations"
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        tenant_key(),
        same_tenant_key("invited_by", "users"),
        UniqueConstraint("tenant_id", "email"),
        CheckConstraint("role IN ('admin', 'member', 'viewer')", name="role"),
        Index(None, "tenant_id", "created_at", "id"),
        Index(None, "tenant_id", "invited_by"),
        Index(None, "tenant_id", "expires_at"),
    )

    email: Mapped[str]
    role: Mapped[str]
    invited_by: Mapped[UUID | None]
    token_hash: Mapped[bytes] = mapped_column(LargeBinary)
    expires_at: Mapped[datetime]
