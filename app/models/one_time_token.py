"""Tokens that are mailed to a user and good for one use."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, LargeBinary, PrimaryKeyConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import TenantModel, same_tenant_key, tenant_key


class TokenPurpose(StrEnum):
    """What a token lets its bearer do."""

    VERIFY_EMAIL = "verify_email"
    RESET_PASSWORD = "reset_password"  # noqa: S105 (a purpose)


class OneTimeToken(TenantModel):
    """A token that was mailed. It has the identifier of its mail; of the token itself only the SHA-256 is kept."""

    __tablename__ = "one_time_tokens"
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        tenant_key(),
        same_tenant_key("user_id", "users", ondelete="CASCADE"),
        CheckConstraint("purpose IN ('verify_email', 'reset_password')", name="purpose"),
        Index(None, "tenant_id", "user_id", "purpose"),
        Index(None, "tenant_id", "expires_at"),
    )

    user_id: Mapped[UUID]
    purpose: Mapped[str]
    token_hash: Mapped[bytes] = mapped_column(LargeBinary)
    # The address that the token was mailed to, and so proves.
    email: Mapped[str]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    # The address of whoever used it to reset a password.
    used_from: Mapped[str | None]
