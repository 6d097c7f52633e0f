"""The people of a tenant."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, Index, PrimaryKeyConstraint, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import TenantModel, tenant_key


class Role(StrEnum):
    """What a user may do; each role may do all that the one below it may."""

    ADMIN = "admin"
    MEMBER = "member"
    VIEWER = "viewer"


class User(TenantModel):
    """A person within one tenant. The same address in two tenants is two users."""

    __tablename__ = "users"
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        tenant_key(),
        UniqueConstraint("tenant_id", "email"),
        CheckConstraint("role IN ('admin', 'member', 'viewer')", name="role"),
        Index(None, "tenant_id", "created_at", "id"),
        Index(None, "tenant_id", "full_name", "id"),
    )

    email: Mapped[str]
    full_name: Mapped[str]
    role: Mapped[str]
    is_active: Mapped[bool] = mapped_column(server_default="true")
    email_verified: Mapped[bool] = mapped_column(server_default="false")
    # A new address, until whoever reads its mail has confirmed it.
    pending_email: Mapped[str | None]
    password_hash: Mapped[str | None]
    # Counts the passwords that the user has had. The same password may be hashed anew at any sign-in, so the hash does not tell.
    password_version: Mapped[int] = mapped_column(server_default="0")
    # Null while the first is in use, or none.
    password_changed_at: Mapped[datetime | None]
    last_login_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), sort_order=91)
