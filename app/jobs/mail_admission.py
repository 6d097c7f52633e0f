"""Whether a mail may go out now. Nobody is flooded with mail that they have not asked for, from however many tenants it comes."""

from datetime import timedelta
from math import ceil

from sqlalchemy import exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.throttle import Pace
from app.jobs.registry import PutOff, TenantJob
from app.models import Mail, MailTemplate, User

HOUR = 3600.0
# Ten mails, then one an hour, until a day has passed without any.
TO_STRANGER = Pace(free=10, first_pause=HOUR, longest_pause=HOUR, memory=24 * HOUR)
LONGEST_WAIT = timedelta(days=1)


async def is_admitted(job: TenantJob, session: AsyncSession, mail: Mail) -> bool:
    """Whether the mail may be sent, which is asked once for each; False where it has waited for a day. Raises `PutOff` where it has to wait.

    Mail to an address that nobody in this tenant has verified is counted by the address, over all tenants. So one tenant can delay another's mail to
    such an address, but is told nothing; and mail to somebody who has verified theirs never waits.
    """
    if mail.admitted_at is not None:
        return True
    if not await _is_verified(session, mail):
        pause = await job.tools.throttle.pause_before(stranger(mail.recipient), TO_STRANGER)
        if pause and await _has_waited(session, mail):
            return False
        if pause:
            raise PutOff(ceil(pause))
    mail.admitted_at = func.now()
    return True


def stranger(recipient: str) -> str:
    """Return what mail to an address is counted under that nobody has verified."""
    return f"mail to\0{recipient}"


async def _is_verified(session: AsyncSession, mail: Mail) -> bool:
    # Told to the former address alone, and only where that was verified.
    if mail.template == MailTemplate.ADDRESS_CHANGED:
        return True
    verified = exists().where(User.tenant_id == mail.tenant_id, User.email == mail.recipient, User.email_verified)
    return bool((await session.execute(select(verified))).scalar_one())


async def _has_waited(session: AsyncSession, mail: Mail) -> bool:
    # By PostgreSQL's clock, which wrote when it was asked for.
    waited = select(Mail.created_at < func.now() - LONGEST_WAIT).where(Mail.tenant_id == mail.tenant_id, Mail.id == mail.id)
    return bool((await session.execute(waited)).scalar_one())
