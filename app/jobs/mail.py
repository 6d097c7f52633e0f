"""Sends mail: one job for each row of `mails`.

A mail that is sent is never sent again. Between the SMTP server's "taken" and our noting so lies a moment; a worker that is killed in it has the mail sent
twice, with the same Message-ID, the same token and the same link, and so may a server that never says whether it has taken it. No protocol that SMTP servers
speak could close it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import UnsafeRole
from app.database_faults import DatabaseFault
from app.jobs.mail_admission import is_admitted
from app.jobs.mail_contents import contents_of
from app.jobs.registry import GiveUp, PutOff, TenantJob, tenant_job
from app.models import Mail, MailState
from app.services.mail import SEND_MAIL
from app.utils import metrics
from app.utils.mail_message import OutgoingMail
from app.utils.mail_templates import render
from app.utils.mail_turns import NotNow
from app.utils.mailer import MailFailure, RecipientRefused, Unanswered, Undeliverable

Result = TypeVar("Result")
log = structlog.get_logger(__name__)


# A server that does not answer may have taken the mail each time.
MOST_UNANSWERED = 2
# Short: while PostgreSQL is away the job's heartbeat fails as well, and once it is back another worker would send the mail again.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0


@tenant_job(SEND_MAIL)
async def send_mail(job: TenantJob, payload: dict[str, Any]) -> None:
    """Send the mail `mail_id`, unless it is sent already or nobody is to get it any more.

    Raises `TryLater` where the server is away, `PutOff` where it is others' turn or too many others went to its recipient lately, `GiveUp` where the server
    refuses the mail for good or was silent twice.
    """
    mail_id = UUID(payload["mail_id"])
    try:
        # Before anything is looked up for a mail that could not go.
        job.tools.mailer.check()
        async with job.transaction() as session:
            outgoing = await _prepare(job, session, mail_id)
        if outgoing is not None:
            await _send(job, outgoing)
    except NotNow as later:
        raise PutOff(later.seconds) from None


async def _send(job: TenantJob, outgoing: OutgoingMail) -> None:
    told = log.bind(mail_id=str(outgoing.id), tenant_id=str(job.tenant_id), template=outgoing.template)
    # Outside any transaction: a server may take minutes to answer, and connections are few.
    try:
        await job.tools.mailer.send(outgoing)
    except RecipientRefused as failure:
        await _note(job, partial(_finish, tenant_id=job.tenant_id, mail_id=outgoing.id, state=MailState.REFUSED))
        metrics.MAILS_REFUSED.labels(outgoing.template).inc()
        told.warning("mail refused", reason=str(failure))
        return
    except MailFailure as failure:
        told.warning("mail not sent", reason=str(failure))
        if isinstance(failure, Undeliverable):
            raise GiveUp(str(failure)) from None
        if isinstance(failure, Unanswered) and await _note(job, partial(_count_silence, tenant_id=job.tenant_id, mail_id=outgoing.id)) >= MOST_UNANSWERED:
            raise GiveUp(str(failure)) from None
        raise
    await _note(job, partial(_finish, tenant_id=job.tenant_id, mail_id=outgoing.id, state=MailState.SENT))
    told.info("mail sent")


async def _note(job: TenantJob, statement: Callable[[AsyncSession], Awaitable[Result]]) -> Result:
    """Note what became of a mail, as often as it takes: one that was sent and is not known to be would be sent again."""
    pause = FIRST_PAUSE
    while True:
        try:
            async with job.transaction() as session:
                return await statement(session)
        except (DatabaseFault, UnsafeRole) as fault:
            log.warning("what became of a mail cannot be noted, will be tried again", tenant_id=str(job.tenant_id), error=type(fault).__name__)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


async def _prepare(job: TenantJob, session: AsyncSession, mail_id: UUID) -> OutgoingMail | None:
    """Return what is to be sent; None where nothing is. Raises `GiveUp`, and `PutOff` where it is not to be sent yet."""
    waiting = select(Mail).where(Mail.tenant_id == job.tenant_id, Mail.id == mail_id, Mail.state == MailState.WAITING).with_for_update()
    mail = (await session.execute(waiting)).scalar_one_or_none()
    if mail is None:
        return None
    contents = await contents_of(job, session, mail)
    if contents is None or not await is_admitted(job, session, mail):
        await _finish(session, job.tenant_id, mail_id, MailState.DROPPED)
        log.info("mail dropped", mail_id=str(mail_id), tenant_id=str(job.tenant_id), template=mail.template)
        return None
    subject, text, html = render(mail.template, contents)
    return OutgoingMail(id=mail.id, template=mail.template, recipient=mail.recipient, name=contents["name"], subject=subject, text=text, html=html)


async def _finish(session: AsyncSession, tenant_id: UUID, mail_id: UUID, state: MailState) -> None:
    finishing = update(Mail).where(Mail.tenant_id == tenant_id, Mail.id == mail_id, Mail.state == MailState.WAITING)
    await session.execute(finishing.values(state=state, finished_at=func.now()))


async def _count_silence(session: AsyncSession, tenant_id: UUID, mail_id: UUID) -> int:
    """Return how often the server was silent about the mail, with this time."""
    counting = update(Mail).where(Mail.tenant_id == tenant_id, Mail.id == mail_id).values(unanswered=Mail.unanswered + 1)
    return (await session.execute(counting.returning(Mail.unanswered))).scalar_one_or_none() or 0
