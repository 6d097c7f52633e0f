"""Proof-of-work challenges that were solved and used."""

from datetime import datetime

from sqlalchemy import Index, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base


class SpentChallenge(Base):
    """A solution that has been used. Worldwide by nature: whoever registers has no tenant yet."""

    __tablename__ = "spent_challenges"
    __table_args__ = (Index(None, "expires_at"),)

    digest: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    expires_at: Mapped[datetime]
