"""Mail on its way: written in the transaction that is the reason for it, and sent by a job."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, CheckConstraint, Index, PrimaryKeyConstraint, SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import TenantModel, tenant_key


class MailTemplate(StrEnum):
    """What a mail is about."""

    VERIFY_EMAIL = "verify_email"
    RESET_PASSWORD = "reset_password"  # noqa: S105 (a template's name)
    SET_PASSWORD = "set_password"  # noqa: S105 (a template's name)
    INVITATION = "invitation"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105 (a template's name)
    ADDRESS_CHANGED = "address_changed"
    NEW_SIGN_IN = "new_sign_in"


class MailState(StrEnum):
    """Where a mail stands."""

    WAITING = "waiting"
    SENT = "sent"
    # Nobody is to get it any more: there is no such user, what it speaks of is gone, or it waited for a day behind others to the same stranger.
    DROPPED = "dropped"
    # Its recipient has no mailbox that takes mail.
    REFUSED = "refused"


class Mail(TenantModel):
    """One mail to one recipient. It holds no token: the job derives the token anew for each attempt (app/core/derived_tokens.py)."""

    __tablename__ = "mails"
    __table_args__ = (
        PrimaryKeyConstraint("tenant_id", "id"),
        tenant_key(),
        CheckConstraint(
            "template IN ('verify_email', 'reset_password', 'set_password', 'invitation', 'password_changed', 'address_changed', 'new_sign_in')",
            name="template",
        ),
        CheckConstraint("state IN ('waiting', 'sent', 'dropped', 'refused')", name="state"),
        CheckConstraint("(state = 'waiting') = (finished_at IS NULL)", name="finished_at"),
        Index(None, "tenant_id", "state", "finished_at"),
    )

    template: Mapped[str]
    recipient: Mapped[str]
    # Not a foreign key: a mail is often asked for before anybody has looked whether there is such a user.
    subject_id: Mapped[UUID | None]
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    # When it was allowed to go out (app/jobs/mail_admission.py), however often it has to be tried from then on.
    admitted_at: Mapped[datetime | None]
    state: Mapped[str] = mapped_column(server_default=MailState.WAITING)
    finished_at: Mapped[datetime | None]
    # How often the SMTP server had the whole mail and did not say whether it takes it. Each may be a copy that arrived.
    unanswered: Mapped[int] = mapped_column(SmallInteger, server_default="0")
