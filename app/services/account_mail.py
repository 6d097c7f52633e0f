"""Mail that anybody may ask for, to any address: links that reset a password or verify an address.

Whether there is such a user is not looked up here but by the job that sends the mail, so that neither the answer nor the work done for it can tell.
"""

from app.core.networks import network_of
from app.core.tenancy import TenantName
from app.core.throttle import Pace
from app.models import MailTemplate
from app.services.container import Services
from app.services.mail import post

HOUR = 3600.0
# Against floods: three mails to a recipient, twenty for a client, and then none for an hour.
TO_RECIPIENT = Pace(free=3, first_pause=HOUR, longest_pause=HOUR, memory=HOUR)
FOR_CLIENT = Pace(free=20, first_pause=HOUR, longest_pause=HOUR, memory=HOUR)


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
