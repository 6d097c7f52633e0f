"""Nobody is flooded with mail that they have not asked for: ten, then one an hour, from all tenants together, counted where mail is sent."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from pydantic import SecretStr

from app.core.throttle import key_of
from app.jobs.mail_admission import TO_STRANGER, stranger
from app.jobs.registry import PutOff
from app.models import Mail, MailTemplate, Tenant
from app.services.container import Services
from app.services.mail import SEND_MAIL
from app.utils.json import to_json
from app.utils.mailer import TryLater
from tests.api.answers import accepted
from tests.clients import client_of
from tests.factories import PASSWORD, Factory, Person
from tests.jobs.support import dispatcher_of, waiting
from tests.mail.smtp_server import SmtpServer

AUTH = "/api/v1/auth"


class Worker:
    """Does the jobs of mails, as a worker would."""

    def __init__(self, services: Services, factory: Factory, smtp: SmtpServer) -> None:
        self._services, self._factory = services, factory
        self._dispatcher = dispatcher_of(services, SecretStr(smtp.url))

    async def send(self, mail: Mail) -> None:
        """Do the job of one mail."""
        await self._dispatcher.dispatch(SEND_MAIL, 0, to_json({"tenant_id": mail.tenant_id, "mail_id": mail.id}))

    async def send_all(self) -> list[int]:
        """Do every job that waits, those done before too. Returns the pauses of those that were put off."""
        pauses = []
        for number, payload in await waiting(self._factory, SEND_MAIL):
            try:
                await self._dispatcher.dispatch(SEND_MAIL, number, payload)
            except PutOff as off:
                pauses.append(off.seconds)
        return pauses

    async def use_up(self, email: str) -> None:
        """Send an address as many mails as a stranger gets at once, each from a tenant of its own."""
        for _ in range(TO_STRANGER.free):
            await self.send(await mail_to(self._factory, email))

    async def end_pause(self, email: str) -> None:
        """Have the address's pause be over, as if an hour had passed."""
        await self._services.redis.client.set(key_of(stranger(email)), f"{TO_STRANGER.free}:1", px=60_000)


@pytest.fixture
def worker(services: Services, factory: Factory, smtp: SmtpServer) -> Worker:
    return Worker(services, factory, smtp)


def fresh_email() -> str:
    return f"{uuid4().hex[:16]}@example.com"


async def mail_to(factory: Factory, email: str, tenant: Tenant | None = None, template: MailTemplate = MailTemplate.RESET_PASSWORD) -> Mail:
    """Make a mail to a user of an unverified address, in a tenant of its own where none is given."""
    if tenant is None:
        tenant = await factory.tenant()
        await factory.user(tenant, email=email)
    return await factory.mail(tenant, template=template, recipient=email)


async def state_of(factory: Factory, mail: Mail) -> str:
    ((state,),) = await factory.run("SELECT state FROM mails WHERE id = :id", id=mail.id)
    return str(state)


async def flood(app: FastAPI, admin: Person, email: str) -> None:
    """Have a stranger mailed by everything that mails, in a tenant founded for it, from a network of its own."""
    async with client_of(app) as client:
        slug = f"t-{uuid4().hex[:12]}"
        newcomer = {"email": email, "password": PASSWORD, "full_name": "Somebody", "tenant_slug": slug}
        accepted(await client.post(f"{AUTH}/register", json=newcomer), 201)
        for path in ("password/forgot", "verify-email/resend"):
            accepted(await client.post(f"{AUTH}/{path}", json={"email": email, "tenant_slug": slug}), 202)
        accepted(await client.post("/api/v1/users/invitations", json={"email": email, "role": "viewer"}, headers=admin.headers), 201)


async def test_twenty_tenants_cannot_flood_a_stranger(app: FastAPI, factory: Factory, worker: Worker, smtp: SmtpServer) -> None:
    email = fresh_email()
    for _ in range(20):
        await flood(app, await factory.person(), email)
    pauses = await worker.send_all()
    assert len(smtp.mails_to(email)) == TO_STRANGER.free == 10
    assert len(pauses) == 70
    assert all(3500 < pause <= 3600 for pause in pauses)
    assert await factory.run("SELECT count(*) FROM mails WHERE recipient = :email AND state = 'waiting'", email=email) == [(70,)]


async def test_after_the_first_ten_a_stranger_gets_one_an_hour(factory: Factory, worker: Worker, smtp: SmtpServer) -> None:
    email = fresh_email()
    await worker.use_up(email)
    late = [await mail_to(factory, email) for _ in range(3)]
    for hour in range(1, 4):
        await worker.end_pause(email)
        await worker.send(late[hour - 1])
        for mail in late[hour:]:
            with pytest.raises(PutOff):
                await worker.send(mail)
        assert len(smtp.mails_to(email)) == TO_STRANGER.free + hour


async def test_the_first_ten_are_forgotten_after_a_day_and_not_with_the_pause(factory: Factory, worker: Worker, services: Services) -> None:
    email = fresh_email()
    await worker.use_up(email)
    assert 23 * 3600 < await services.redis.client.ttl(key_of(stranger(email))) <= 24 * 3600


async def test_the_invitation_of_one_tenant_arrives_late_and_whole_when_others_flood_its_recipient(
    client: AsyncClient, factory: Factory, worker: Worker, smtp: SmtpServer
) -> None:
    admin, email = await factory.person(await factory.tenant(name="Acme")), fresh_email()
    await worker.use_up(email)
    accepted(await client.post("/api/v1/users/invitations", json={"email": email, "role": "viewer"}, headers=admin.headers), 201)
    assert len(await worker.send_all()) == 1
    await worker.end_pause(email)
    assert await worker.send_all() == []
    assert "Acme" in smtp.mails_to(email)[-1]["Subject"]


async def test_who_has_verified_the_address_never_waits_for_the_mail_of_others(factory: Factory, worker: Worker, smtp: SmtpServer) -> None:
    user = await factory.user(await factory.tenant(), email_verified=True)
    await worker.use_up(user.email)
    tenant = Tenant(id=user.tenant_id)
    for template in (MailTemplate.RESET_PASSWORD, MailTemplate.PASSWORD_CHANGED, MailTemplate.NEW_SIGN_IN):
        for _ in range(TO_STRANGER.free):
            await worker.send(await mail_to(factory, user.email, tenant, template))
    assert len(smtp.mails_to(user.email)) == 4 * TO_STRANGER.free


async def test_mail_to_whoever_has_verified_the_address_takes_nothing_from_others(factory: Factory, worker: Worker, smtp: SmtpServer) -> None:
    user = await factory.user(await factory.tenant(), email_verified=True)
    for _ in range(TO_STRANGER.free):
        await worker.send(await mail_to(factory, user.email, Tenant(id=user.tenant_id)))
    await worker.use_up(user.email)
    assert len(smtp.mails_to(user.email)) == 2 * TO_STRANGER.free


async def test_the_news_of_a_new_address_reach_the_old_one_whatever_others_send_there(factory: Factory, worker: Worker, smtp: SmtpServer) -> None:
    former = fresh_email()
    user = await factory.user(await factory.tenant(), email_verified=True)
    await worker.use_up(former)
    await worker.send(
        await factory.mail(Tenant(id=user.tenant_id), template=MailTemplate.ADDRESS_CHANGED, recipient=former, subject_id=user.id),
    )
    assert len(smtp.mails_to(former)) == TO_STRANGER.free + 1


@pytest.mark.parametrize("template", [MailTemplate.VERIFY_EMAIL, MailTemplate.PASSWORD_CHANGED, MailTemplate.NEW_SIGN_IN])
async def test_every_mail_to_an_address_that_nobody_verified_counts(factory: Factory, worker: Worker, smtp: SmtpServer, template: MailTemplate) -> None:
    user = await factory.user(await factory.tenant())
    for number in range(TO_STRANGER.free + 1):
        mail = await mail_to(factory, user.email, Tenant(id=user.tenant_id), template)
        if number < TO_STRANGER.free:
            await worker.send(mail)
    with pytest.raises(PutOff):
        await worker.send(mail)
    assert len(smtp.mails_to(user.email)) == TO_STRANGER.free


async def test_a_new_address_counts_although_the_old_one_is_verified(factory: Factory, worker: Worker) -> None:
    email = fresh_email()
    user = await factory.user(await factory.tenant(), email_verified=True, pending_email=email)
    await worker.use_up(email)
    with pytest.raises(PutOff):
        await worker.send(await factory.mail(Tenant(id=user.tenant_id), recipient=email, subject_id=user.id))


async def test_a_mail_that_has_to_be_tried_often_counts_once(factory: Factory, worker: Worker, smtp: SmtpServer) -> None:
    email = fresh_email()
    mail = await mail_to(factory, email)
    smtp.data_answer = "451 Not now"
    for _ in range(TO_STRANGER.free + 2):
        with pytest.raises(TryLater):
            await worker.send(mail)
    smtp.data_answer = None
    for _ in range(TO_STRANGER.free - 1):
        await worker.send(await mail_to(factory, email))
    # The pause has begun, and is none for the one that was admitted before.
    with pytest.raises(PutOff):
        await worker.send(await mail_to(factory, email))
    await worker.send(mail)
    assert len(smtp.mails_to(email)) == TO_STRANGER.free


async def test_a_mail_that_has_waited_for_a_day_is_dropped(factory: Factory, worker: Worker, smtp: SmtpServer) -> None:
    email = fresh_email()
    await worker.use_up(email)
    old, young = [await mail_to(factory, email) for _ in range(2)]
    for mail, hours in ((old, 24.1), (young, 23.9)):
        await factory.run("UPDATE mails SET created_at = :at WHERE id = :id", at=datetime.now(UTC) - timedelta(hours=hours), id=mail.id)
    await worker.send(old)
    with pytest.raises(PutOff):
        await worker.send(young)
    assert [await state_of(factory, mail) for mail in (old, young)] == ["dropped", "waiting"]
    assert len(smtp.mails_to(email)) == TO_STRANGER.free


async def test_a_mail_that_is_put_off_leaves_no_token_behind(factory: Factory, worker: Worker) -> None:
    email = fresh_email()
    await worker.use_up(email)
    mail = await mail_to(factory, email)
    with pytest.raises(PutOff):
        await worker.send(mail)
    assert await factory.run("SELECT 1 FROM one_time_tokens WHERE id = :id", id=mail.id) == []
