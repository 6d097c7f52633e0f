"""What mail was asked for."""

from typing import Any, NamedTuple
from uuid import UUID

from app.models import Tenant
from tests.factories import Factory


class Asked(NamedTuple):
    """A mail that waits, and whether there is a job that will send it."""

    template: str
    recipient: str
    subject_id: UUID | None
    data: dict[str, Any]
    has_job: bool


async def mails_of(factory: Factory, tenant: Tenant) -> list[Asked]:
    """Return the tenant's mails in the order in which they were asked for."""
    job = "EXISTS (SELECT FROM jobs.pgqueuer WHERE entrypoint = 'send_mail' AND convert_from(payload, 'UTF8') LIKE '%' || m.id || '%')"
    rows = await factory.run(f"SELECT template, recipient, subject_id, data, {job} FROM mails m WHERE tenant_id = :id ORDER BY created_at, id", id=tenant.id)
    return [Asked(*row) for row in rows]


async def mails(factory: Factory, tenant_id: UUID, template: str | None = None) -> list[tuple[Any, ...]]:
    """Return recipient, subject and data of the tenant's mails, in order; each has its job."""
    asked = await mails_of(factory, Tenant(id=tenant_id))
    assert all(mail.has_job for mail in asked)
    return [(mail.recipient, mail.subject_id, mail.data) for mail in asked if template in (None, mail.template)]
