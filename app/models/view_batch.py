"""Batches of buffered project views that have been turned into jobs."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Index, func
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base


class ViewBatch(Base):
    """A batch whose jobs have been enqueued. Worldwide by nature: a batch holds the views of all tenants, and of it only the identifier is kept."""

    __tablename__ = "view_batches"
    __table_args__ = (Index(None, "created_at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
