"""Mail to addresses that whoever asks for it may have made up: links that reset a password or verify an address, and invitations.

Whether there is a user to whom a link can go is not looked up here but by the job that sends the mail, so that neither the answer nor the work done for
it can tell.
"""

from math import ceil
from uuid import UUID

from app.core.account_exceptions import MailThrottled
from app.core.networks import network_of
from app.core.tenancy import TenantName
from app.core.throttle import Pace
from app.models import MailTemplate
from app.services.container import Services
from app.services.mail import post

HOUR = 3600.0
# Against floods: three mails to a recipient, twenty for a client, and then none for a while. A recipient's pause is shorter than the life of a link that
# resets a password: whatever strangers ask for, its owner has a link that works, or can ask for one.
TO_RECIPIENT = Pace(free=3, first_pause=HOUR / 3, longest_pause=HOUR / 3, memory=HOUR)
FOR_CLIENT = Pace(free=20, first_pause=HOUR, longest_pause=HOUR, memory=HOUR)
# The same for people who are signed in, and who are told. Counted within their tenant alone: they would learn of others' mail, or keep others from sending
# theirs. What all tenants send to one stranger together is bounded where it is sent (app/jobs/mail_admission.py).
FROM_TENANT = Pace(free=10, first_pause=HOUR, longest_pause=HOUR, memory=HOUR)
FOR_SENDER = Pace(free=500, first_pause=HOUR, longest_pause=HOUR, memory=HOUR)


async def refuse_flood(services: Services, tenant_id: UUID, sender: UUID, recipient: str) -> None:
    """Count one more mail that a user has sent to an address that nobody has verified. Raises `MailThrottled` where there were too many lately.

    To be asked last: what is refused for another reason is no mail.
    """
    pause = await services.throttle.pause_before(f"mail from\0{sender}", FOR_SENDER)
    pause = pause or await services.throttle.pause_before(f"mail from tenant\0{tenant_id}\0{recipient}", FROM_TENANT)
    if pause:
        raise MailThrottled(headers={"Retry-After": str(ceil(pause))})


async def ask_for_mail(services: Services, template: MailTemplate, *, email: str, tenant_slug: str, client: str | None) -> None:
    """Have the mail sent if there is a user to whom it can go. Does nothing where there were too many lately, or there is no such tenant."""
    slug = tenant_slug.strip().lower()
    tenant = await services.tenants.load(TenantName("slug", slug))
    # The client's count comes first, so that whoever has used theirs up cannot use up the recipient's.
    if not await services.throttle.take(f"mail for\0{network_of(client or '')}", FOR_CLIENT):
        return
    if not await services.throttle.take(f"mail\0{template}\0{slug}\0{email}", TO_RECIPIENT):
        return
    if tenant is None or not tenant.is_active:
        return
    async with services.database.transaction(tenant.id) as session:
        await post(session, tenant.id, template, email)
