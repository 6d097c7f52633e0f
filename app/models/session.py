"""Signed-in sessions: what an access token's `sid` names."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ARRAY, DateTime, Index, LargeBinary, PrimaryKeyConstraint, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import TenantModel, same_tenant_key, tenant_key


class Session(TenantModel):
    """One sign-in on one device. Of the current refresh token, and of the one before it, only the SHA-256 is kept.

    `refresh_count` says which one in its line the current one is. `last_used_at` is the time of the last refresh, or of the sign-in where there was none:
    calls with an access token write nothing.
    """

    __tablename__ = "sessions"
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        tenant_key(),
        same_tenant_key("user_id", "users", ondelete="CASCADE"),
        UniqueConstraint("tenant_id", "refresh_token_hash"),
        Index(None, "tenant_id", "user_id", "created_at"),
        Index(None, "tenant_id", "expires_at"),
    )

    user_id: Mapped[UUID]
    refresh_token_hash: Mapped[bytes] = mapped_column(LargeBinary)
    previous_token_hash: Mapped[bytes | None] = mapped_column(LargeBinary)
    refresh_count: Mapped[int] = mapped_column(server_default="0")
    refreshed_at: Mapped[datetime | None]
    # Of the few refreshes before that one, the last one first: which of the older tokens were used only seconds ago.
    earlier_refreshes: Mapped[list[datetime]] = mapped_column(ARRAY(DateTime(timezone=True)), server_default="{}")
    ip_address: Mapped[str | None]
    user_agent: Mapped[str | None]
    last_used_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
