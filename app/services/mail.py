"""Asks for mail: a row and a job, in the transaction that is the reason for the mail. `app/jobs/mail.py` sends it."""

from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.core.queue import enqueue
from app.models import Mail, MailTemplate, new_id

SEND_MAIL = "send_mail"


async def post(session: AsyncSession, tenant_id: UUID, template: MailTemplate, recipient: str, *, subject_id: UUID | None = None, **data: Any) -> None:
    """Have a mail sent once the session's transaction is committed, and not before.

    `subject_id` is the user, or for an invitation the invitation, that the mail is about; without it the job looks for the user by the recipient's
    address, and drops the mail where there is none. `data` is what the template shows beside what the job looks up; it must not hold a secret:
    for `NEW_SIGN_IN` `ip_address` and `user_agent`, either of which may be None, for the others nothing.
    """
    mail = Mail(tenant_id=tenant_id, id=new_id(), template=template, recipient=recipient, subject_id=subject_id, data=data)
    session.add(mail)
    await session.flush()
    await enqueue(session, SEND_MAIL, [{"mail_id": mail.id}], [tenant_id])
