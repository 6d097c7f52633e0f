"""Sends mail: one job for each row of `mails`.

A mail that is sent is never sent again. Between the SMTP server's "taken" and our noting so lies a moment; a worker that is killed in it has the mail sent
twice, with the same Message-ID, the same token and the same link. No protocol that SMTP servers speak could close it.
"""

from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.jobs.mail_contents import contents_of
from app.jobs.registry import GiveUp, TenantJob, tenant_job
from app.models import Mail, MailState
from app.services.mail import SEND_MAIL
from app.utils.mail_message import OutgoingMail
from app.utils.mail_templates import render
from app.utils.mailer import MailFailure, Undeliverable

log = structlog.get_logger(__name__)


@tenant_job(SEND_MAIL)
async def send_mail(job: TenantJob, payload: dict[str, Any]) -> None:
    """Send the mail `mail_id`, unless it is sent already or nobody is to get it any more.

    Raises `TryLater` where the server is away, `GiveUp` where it refuses the mail for good.
    """
    mail_id = UUID(payload["mail_id"])
    async with job.transaction() as session:
        outgoing = await _prepare(job, session, mail_id)
    if outgoing is None:
        return
    # Outside any transaction: a server may take half a minute to answer, and connections are few.
    try:
        await job.tools.mailer.send(outgoing)
    except MailFailure as failure:
        log.warning("mail not sent", mail_id=str(mail_id), tenant_id=str(job.tenant_id), template=outgoing.template, reason=str(failure))
        if isinstance(failure, Undeliverable):
            raise GiveUp(str(failure)) from None
        raise
    async with job.transaction() as session:
        await _finish(session, job.tenant_id, mail_id, MailState.SENT)
    log.info("mail sent", mail_id=str(mail_id), tenant_id=str(job.tenant_id), template=outgoing.template)


async def _prepare(job: TenantJob, session: AsyncSession, mail_id: UUID) -> OutgoingMail | None:
    """Return what is to be sent; None where nothing is. Raises `GiveUp`."""
    waiting = select(Mail).where(Mail.tenant_id == job.tenant_id, Mail.id == mail_id, Mail.state == MailState.WAITING).with_for_update()
    mail = (await session.execute(waiting)).scalar_one_or_none()
    if mail is None:
        return None
    contents = await contents_of(job, session, mail)
    if contents is None:
        await _finish(session, job.tenant_id, mail_id, MailState.DROPPED)
        log.info("mail dropped", mail_id=str(mail_id), tenant_id=str(job.tenant_id), template=mail.template)
        return None
    subject, text, html = render(mail.template, contents)
    return OutgoingMail(id=mail.id, template=mail.template, recipient=mail.recipient, name=contents["name"], subject=subject, text=text, html=html)


async def _finish(session: AsyncSession, tenant_id: UUID, mail_id: UUID, state: MailState) -> None:
    finishing = update(Mail).where(Mail.tenant_id == tenant_id, Mail.id == mail_id, Mail.state == MailState.WAITING)
    await session.execute(finishing.values(state=state, finished_at=func.now()))
