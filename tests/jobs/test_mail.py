"""The job that sends mail, against a real SMTP server: once, to the right person, with a link that works, or not at all."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import pytest
from httpx import AsyncClient
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession

import app.jobs.mail
import app.utils.mailer
from app.config import Settings
from app.core.derived_tokens import DerivedTokens, name_of, token_hash
from app.database import Database, UnsafeRole
from app.database_faults import DatabaseUnavailable
from app.jobs.mail import send_mail
from app.jobs.registry import TENANT_JOBS, GiveUp, TenantJob, Tools
from app.models import Mail, MailTemplate, Tenant, TokenPurpose, new_id
from app.services.container import Services
from app.services.mail import SEND_MAIL, post
from app.services.passwords import change_password
from app.utils import metrics
from app.utils.mailer import Mailer, TryLater, Unanswered
from tests.factories import PASSWORD, Factory
from tests.faults.support import changed, eventually
from tests.mail.listening import listen_to
from tests.mail.smtp_server import SmtpServer, html_of, link_in, text_of, token_in

Run = Callable[..., Coroutine[Any, Any, None]]
ABOUT_A_USER = [template for template in MailTemplate if template != MailTemplate.INVITATION]


@pytest.fixture
def run(services: Services, settings: Settings, smtp: SmtpServer) -> Run:
    """Runs the job of a mail, as a worker would, with some settings changed and in the context of another tenant where asked."""

    async def it(mail: Mail | UUID, tenant: Tenant | None = None, **changes: Any) -> None:
        used = changed(settings, smtp_url=smtp.url, **changes)
        tokens, mailer = DerivedTokens(used), Mailer(used.smtp_url, used.mail_from)
        tools = Tools(settings=used, redis=services.redis, throttle=services.throttle, derived_tokens=tokens, mailer=mailer)
        tenant_id, mail_id = (mail.tenant_id, mail.id) if isinstance(mail, Mail) else (new_id(), mail)
        await send_mail(TenantJob(services.database, tools, tenant.id if tenant else tenant_id), {"mail_id": str(mail_id)})

    return it


async def state_of(factory: Factory, mail: Mail) -> tuple[str, bool]:
    """Return the mail's state, and whether it is finished."""
    ((state, finished_at),) = await factory.run("SELECT state, finished_at FROM mails WHERE id = :id", id=mail.id)
    return state, finished_at is not None


async def expiry_of(factory: Factory, mail: Mail) -> datetime:
    ((expires_at,),) = await factory.run("SELECT expires_at FROM one_time_tokens WHERE id = :id", id=mail.id)
    assert isinstance(expires_at, datetime)
    return expires_at


def without_password(template: MailTemplate) -> dict[str, Any]:
    """A user's values for a mail that goes only to those who have no password yet."""
    return {"password_hash": None} if template == MailTemplate.SET_PASSWORD else {}


async def test_the_job_is_registered() -> None:
    assert TENANT_JOBS[SEND_MAIL] is send_mail


@pytest.mark.parametrize("template", ABOUT_A_USER)
async def test_a_mail_is_sent_once_however_often_its_job_runs(run: Run, smtp: SmtpServer, factory: Factory, template: MailTemplate) -> None:
    tenant = await factory.tenant(name="Acme")
    user = await factory.user(tenant, full_name="Ada Example", **without_password(template))
    mail = await factory.mail(tenant, template=template, recipient=user.email)
    for _ in range(3):
        await run(mail)
    (sent,) = smtp.mails_to(user.email)
    assert await state_of(factory, mail) == ("sent", True)
    assert "Acme" in sent["Subject"]
    assert "Hello Ada Example," in text_of(sent)
    assert "Hello Ada Example," in html_of(sent)


async def test_while_the_server_is_away_a_mail_waits_and_then_arrives_once(run: Run, smtp: SmtpServer, factory: Factory) -> None:
    tenant = await factory.tenant()
    user = await factory.user(tenant)
    mail = await factory.mail(tenant, recipient=user.email)
    smtp.stop()
    for _ in range(2):
        with pytest.raises(TryLater):
            await run(mail)
        assert await state_of(factory, mail) == ("waiting", False)
    smtp.start()
    smtp.data_answer = "451 4.3.0 Not now"
    with pytest.raises(TryLater):
        await run(mail)
    smtp.data_answer = None
    await run(mail)
    await run(mail)
    assert len(smtp.mails_to(user.email)) == 1


async def test_a_mail_that_is_refused_for_good_is_given_up_and_can_be_sent_again(run: Run, smtp: SmtpServer, factory: Factory) -> None:
    tenant = await factory.tenant()
    user = await factory.user(tenant)
    mail = await factory.mail(tenant, recipient=user.email)
    smtp.rcpt_answer = f"550 5.7.1 {user.email}: relaying denied"
    with pytest.raises(GiveUp) as given_up:
        await run(mail)
    assert user.email not in str(given_up.value)
    assert await state_of(factory, mail) == ("waiting", False)
    smtp.rcpt_answer = None
    await run(mail)
    assert len(smtp.mails_to(user.email)) == 1


@pytest.mark.parametrize("recipient", [None, "no address at all"])
async def test_a_recipient_who_does_not_exist_is_no_failure_and_leaves_nothing_for_an_operator(
    run: Run, smtp: SmtpServer, factory: Factory, monkeypatch: pytest.MonkeyPatch, recipient: str | None
) -> None:
    """Strangers would fill the queue with misspelt addresses."""
    tenant = await factory.tenant()
    user = await factory.user(tenant, email=recipient or f"{uuid4().hex}@example.com")
    mail = await factory.mail(tenant, recipient=user.email)
    smtp.rcpt_answer = f"550 5.1.1 {user.email}: there is no such mailbox"
    refused = metrics.MAILS_REFUSED.labels("verify_email")._value
    before, logs = refused.get(), listen_to(monkeypatch, app.jobs.mail, app.utils.mailer)
    for _ in range(2):
        await run(mail)
    assert await state_of(factory, mail) == ("refused", True)
    assert smtp.attempts == (0 if recipient else 1)
    (line,) = logs
    assert (line["event"], line["log_level"], line["template"]) == ("mail refused", "warning", "verify_email")
    assert recipient or line["reason"].endswith("550 5.1.1")
    assert user.email not in str(logs)
    assert refused.get() == before + 1


async def test_a_mail_sent_twice_because_a_worker_died_is_one_and_the_same(run: Run, smtp: SmtpServer, factory: Factory) -> None:
    tenant = await factory.tenant()
    user = await factory.user(tenant)
    mail = await factory.mail(tenant, template=MailTemplate.RESET_PASSWORD, recipient=user.email)
    await run(mail)
    # As a worker leaves it that is killed after the server took the mail.
    await factory.run("UPDATE mails SET state = 'waiting', finished_at = NULL WHERE id = :id", id=mail.id)
    await run(mail)
    first, second = smtp.mails_to(user.email)
    assert first["Message-ID"] == second["Message-ID"] == f"<{mail.id}@example.com>"
    assert link_in(first) == link_in(second)


async def test_a_server_that_was_silent_twice_about_a_mail_gets_it_again_only_from_an_operator(
    run: Run, smtp: SmtpServer, factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.utils.mailer, "ANSWER_SECONDS", 0.3)
    tenant = await factory.tenant()
    user = await factory.user(tenant)
    mail = await factory.mail(tenant, recipient=user.email)
    smtp.hanging = True
    try:
        with pytest.raises(Unanswered):
            await run(mail)
        for _ in range(2):
            # The job is kept as failed, and done again where an operator says so.
            with pytest.raises(GiveUp):
                await run(mail)
            assert await state_of(factory, mail) == ("waiting", False)
    finally:
        smtp.hanging = False
    assert smtp.attempts == 3
    monkeypatch.setattr(app.utils.mailer, "ANSWER_SECONDS", 10.0)
    await run(mail)
    assert await state_of(factory, mail) == ("sent", True)


class Failing:
    """A database that fails so many times once the SMTP server has a mail."""

    def __init__(self, database: Database, smtp: SmtpServer, faults: int) -> None:
        self._database, self._smtp, self._faults = database, smtp, faults

    def transaction(self, tenant_id: UUID | None) -> AbstractAsyncContextManager[AsyncSession]:
        if self._smtp.mails and self._faults:
            self._faults -= 1
            raise DatabaseUnavailable if self._faults % 2 else UnsafeRole
        return self._database.transaction(tenant_id)


async def test_a_mail_that_cannot_be_noted_as_sent_is_not_sent_again_while_the_worker_lives(
    services: Services, settings: Settings, smtp: SmtpServer, factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.jobs.mail, "LONGEST_PAUSE", 0.2)
    tenant = await factory.tenant()
    user = await factory.user(tenant)
    mail = await factory.mail(tenant, recipient=user.email)
    used = changed(settings, smtp_url=smtp.url)
    mailer = Mailer(used.smtp_url, used.mail_from)
    tools = Tools(settings=used, redis=services.redis, throttle=services.throttle, derived_tokens=services.derived_tokens, mailer=mailer)
    failing = cast("Database", Failing(services.database, smtp, faults=7))
    logs = listen_to(monkeypatch, app.jobs.mail)
    await send_mail(TenantJob(failing, tools, tenant.id), {"mail_id": str(mail.id)})
    assert [line["event"] for line in logs] == ["what became of a mail cannot be noted, will be tried again"] * 7 + ["mail sent"]
    assert len(smtp.mails_to(user.email)) == 1
    assert await state_of(factory, mail) == ("sent", True)


async def test_a_link_that_was_used_is_not_mailed_again(run: Run, smtp: SmtpServer, factory: Factory) -> None:
    tenant = await factory.tenant()
    user = await factory.user(tenant)
    mail = await factory.mail(tenant, template=MailTemplate.RESET_PASSWORD, recipient=user.email)
    await run(mail)
    await factory.run("UPDATE mails SET state = 'waiting', finished_at = NULL WHERE id = :id", id=mail.id)
    await factory.run("UPDATE one_time_tokens SET used_at = now() WHERE id = :id", id=mail.id)
    await run(mail)
    assert len(smtp.mails_to(user.email)) == 1
    assert await state_of(factory, mail) == ("dropped", True)


async def test_the_token_stays_the_same_when_the_key_changes_between_two_attempts(run: Run, smtp: SmtpServer, factory: Factory, settings: Settings) -> None:
    tenant = await factory.tenant()
    user = await factory.user(tenant)
    mail = await factory.mail(tenant, recipient=user.email)
    await run(mail)
    await factory.run("UPDATE mails SET state = 'waiting', finished_at = NULL WHERE id = :id", id=mail.id)
    await run(mail, secret_key="a new key, of more than thirty-two characters", secret_keys_previous=(settings.secret_key.get_secret_value(),))
    first, second = smtp.mails_to(user.email)
    assert token_in(first) == token_in(second)


@pytest.mark.parametrize(
    ("template", "purpose", "lifetime", "path"),
    [
        (MailTemplate.VERIFY_EMAIL, TokenPurpose.VERIFY_EMAIL, timedelta(hours=24), "/account/verify-email"),
        (MailTemplate.RESET_PASSWORD, TokenPurpose.RESET_PASSWORD, timedelta(minutes=30), "/account/reset-password"),
        (MailTemplate.SET_PASSWORD, TokenPurpose.RESET_PASSWORD, timedelta(days=7), "/account/reset-password"),
    ],
)
async def test_a_link_leads_to_its_page_with_a_token_that_lives_as_long_as_the_mail_says(
    run: Run, smtp: SmtpServer, factory: Factory, template: MailTemplate, purpose: TokenPurpose, lifetime: timedelta, path: str
) -> None:
    tenant = await factory.tenant()
    user = await factory.user(tenant, **without_password(template))
    mail = await factory.mail(tenant, template=template, recipient=user.email)
    await run(mail, public_url="https://app.example.com/")
    sent = await smtp.mail_to(user.email)
    link, token = urlsplit(link_in(sent)), token_in(sent)
    assert (link.scheme, link.netloc, link.path, link.query) == ("https", "app.example.com", path, f"tenant={tenant.slug}")
    assert f'href="{link_in(sent)}"' in html_of(sent)
    name = name_of(token)
    assert name is not None
    assert (name.tenant_id, name.row_id) == (tenant.id, mail.id)
    (row,) = await factory.run("SELECT token_hash, user_id, purpose, email, used_at FROM one_time_tokens WHERE id = :id", id=mail.id)
    assert tuple(row) == (token_hash(token), user.id, purpose, user.email, None)
    assert abs(await expiry_of(factory, mail) - datetime.now(UTC) - lifetime) < timedelta(minutes=1)


async def test_a_link_that_waited_for_the_server_lives_as_long_as_any(run: Run, smtp: SmtpServer, factory: Factory) -> None:
    tenant = await factory.tenant()
    user = await factory.user(tenant)
    mail = await factory.mail(tenant, template=MailTemplate.RESET_PASSWORD, recipient=user.email)
    smtp.data_answer = "451 Not now"
    with pytest.raises(TryLater):
        await run(mail)
    await factory.run("UPDATE one_time_tokens SET expires_at = now() - interval '1 hour' WHERE id = :id", id=mail.id)
    smtp.data_answer = None
    await run(mail)
    assert await expiry_of(factory, mail) > datetime.now(UTC) + timedelta(minutes=29)


async def test_a_mail_to_an_unknown_address_is_dropped(run: Run, smtp: SmtpServer, factory: Factory) -> None:
    tenant, elsewhere = await factory.tenant(), await factory.tenant()
    of_another_tenant = await factory.user(elsewhere)
    for template in ABOUT_A_USER:
        for recipient in (f"{uuid4().hex}@example.com", of_another_tenant.email):
            mail = await factory.mail(tenant, template=template, recipient=recipient)
            await run(mail)
            assert await state_of(factory, mail) == ("dropped", True)
            assert smtp.mails_to(recipient) == []


@pytest.mark.parametrize("has_password", [True, False])
async def test_links_that_still_wait_when_one_of_them_is_used_are_never_mailed(
    run: Run, smtp: SmtpServer, factory: Factory, client: AsyncClient, has_password: bool
) -> None:
    tenant = await factory.tenant()
    values: dict[str, Any] = {} if has_password else {"password_hash": None}
    user = await factory.user(tenant, **values)
    first, second = [await factory.mail(tenant, template=MailTemplate.RESET_PASSWORD, recipient=user.email) for _ in range(2)]
    to_set = await factory.mail(tenant, template=MailTemplate.SET_PASSWORD, recipient=user.email, subject_id=user.id)
    await run(first)
    body = {"token": token_in(await smtp.mail_to(user.email)), "password": "a first new passphrase"}
    assert (await client.post("/api/v1/auth/password/reset", headers={"X-Tenant-Slug": tenant.slug}, json=body)).status_code == 204
    for late in (second, to_set):
        await run(late)
        assert await state_of(factory, late) == ("dropped", True)
    # What is asked for afterwards is mailed.
    await run(await factory.mail(tenant, template=MailTemplate.RESET_PASSWORD, recipient=user.email))
    assert [mail["Subject"].split()[0] for mail in smtp.mails_to(user.email)] == ["Choose", "Choose"]


async def test_a_link_that_waits_while_the_password_is_changed_is_never_mailed(run: Run, smtp: SmtpServer, factory: Factory, client: AsyncClient) -> None:
    person = await factory.person()
    mail = await factory.mail(person.tenant, template=MailTemplate.RESET_PASSWORD, recipient=person.user.email)
    body = {"current_password": PASSWORD, "new_password": "a first new passphrase"}
    assert (await client.post("/api/v1/auth/password/change", headers=person.headers, json=body)).status_code == 204
    await run(mail)
    assert await state_of(factory, mail) == ("dropped", True)
    assert smtp.mails_to(person.user.email) == []


async def test_a_link_is_not_made_beside_a_password_that_is_being_set(run: Run, smtp: SmtpServer, factory: Factory, services: Services) -> None:
    tenant = await factory.tenant()
    user = await factory.user(tenant)
    mail = await factory.mail(tenant, template=MailTemplate.RESET_PASSWORD, recipient=user.email)
    async with services.database.transaction(tenant.id) as session:
        await change_password(session, user, "another hash", keep=new_id())
        sending = asyncio.create_task(run(mail))
        await asyncio.sleep(0.3)
        assert not sending.done()
    await sending
    assert await state_of(factory, mail) == ("dropped", True)
    assert smtp.mails_to(user.email) == []


async def test_who_is_switched_off_gets_no_link_to_a_new_password(run: Run, smtp: SmtpServer, factory: Factory) -> None:
    tenant = await factory.tenant()
    user = await factory.user(tenant, is_active=False, password_hash=None)
    for template in (MailTemplate.RESET_PASSWORD, MailTemplate.SET_PASSWORD):
        mail = await factory.mail(tenant, template=template, recipient=user.email)
        await run(mail)
        assert (await state_of(factory, mail))[0] == "dropped"
    # Whoever waits for an admin's approval may confirm the address meanwhile.
    await run(await factory.mail(tenant, recipient=user.email))
    assert [urlsplit(link_in(mail)).path for mail in smtp.mails_to(user.email)] == ["/account/verify-email"]


async def test_an_address_that_is_confirmed_is_not_asked_again(run: Run, smtp: SmtpServer, factory: Factory) -> None:
    tenant = await factory.tenant()
    user = await factory.user(tenant, email_verified=True)
    mail = await factory.mail(tenant, recipient=user.email)
    await run(mail)
    assert (await state_of(factory, mail))[0] == "dropped"
    assert smtp.mails_to(user.email) == []


async def test_a_suspended_tenant_sends_no_mail(run: Run, smtp: SmtpServer, factory: Factory) -> None:
    tenant = await factory.tenant(is_active=False)
    user = await factory.user(tenant)
    invitation, _ = await factory.invitation(tenant)
    for template, recipient, subject in ((MailTemplate.VERIFY_EMAIL, user.email, None), (MailTemplate.INVITATION, invitation.email, invitation.id)):
        mail = await factory.mail(tenant, template=template, recipient=recipient, subject_id=subject)
        await run(mail)
        assert await state_of(factory, mail) == ("dropped", True)
        assert smtp.mails_to(recipient) == []


@pytest.mark.parametrize("named", [True, False])
async def test_a_new_address_of_somebody_who_is_verified_gets_its_link(run: Run, smtp: SmtpServer, factory: Factory, named: bool) -> None:
    tenant, new_address = await factory.tenant(), f"{uuid4().hex}@example.com"
    user = await factory.user(tenant, email_verified=True, pending_email=new_address)
    mail = await factory.mail(tenant, recipient=new_address, subject_id=user.id if named else None)
    await run(mail)
    assert len(smtp.mails_to(new_address)) == 1
    (row,) = await factory.run("SELECT user_id, email FROM one_time_tokens WHERE id = :id", id=mail.id)
    assert tuple(row) == (user.id, new_address)


async def test_a_mail_about_one_user_is_never_made_for_another_with_the_same_new_address(run: Run, factory: Factory) -> None:
    tenant, wanted = await factory.tenant(), f"{uuid4().hex}@example.com"
    people = [await factory.user(tenant, pending_email=wanted) for _ in range(3)]
    mail = await factory.mail(tenant, recipient=wanted, subject_id=people[0].id)
    await run(mail)
    ((user_id,),) = await factory.run("SELECT user_id FROM one_time_tokens WHERE id = :id", id=mail.id)
    assert user_id == people[0].id


async def test_another_tenant_s_job_cannot_send_a_mail(run: Run, smtp: SmtpServer, factory: Factory) -> None:
    ours, theirs = await factory.tenant(), await factory.tenant()
    user = await factory.user(theirs)
    # An address that both know, and a subject that is theirs alone.
    await factory.user(ours, email=user.email)
    mail = await factory.mail(theirs, recipient=user.email)
    await run(mail, tenant=ours)
    assert await state_of(factory, mail) == ("waiting", False)
    forged = await factory.mail(ours, template=MailTemplate.RESET_PASSWORD, recipient=user.email, subject_id=user.id)
    await run(forged)
    assert (await state_of(factory, forged))[0] == "dropped"
    invitation, _ = await factory.invitation(theirs)
    stolen = await factory.mail(ours, template=MailTemplate.INVITATION, recipient=invitation.email, subject_id=invitation.id)
    await run(stolen)
    assert (await state_of(factory, stolen))[0] == "dropped"
    assert smtp.mails_to(user.email) == smtp.mails_to(invitation.email) == []


async def test_a_mail_or_a_tenant_that_is_gone_is_no_failure(run: Run, factory: Factory) -> None:
    mail = await factory.mail(await factory.tenant())
    await factory.run("DELETE FROM tenants WHERE id = :id", id=mail.tenant_id)
    await run(mail)
    await run(uuid4())


async def test_an_invitation_s_mail_holds_the_invitation_s_token_and_address(run: Run, smtp: SmtpServer, factory: Factory) -> None:
    admin = await factory.person(full_name="Grace Admin")
    invitation, token = await factory.invitation(admin.tenant, invited_by=admin.user.id, email=f"{uuid4().hex}+o'neil&co@example.com")
    mail = await factory.mail(admin.tenant, template=MailTemplate.INVITATION, recipient=invitation.email, subject_id=invitation.id)
    await run(mail)
    sent = await smtp.mail_to(invitation.email)
    link = urlsplit(link_in(sent))
    assert (link.path, link.query) == ("/account/accept-invitation", f"tenant={admin.tenant.slug}")
    assert parse_qs(link.fragment) == {"token": [token], "email": [invitation.email]}
    assert "Grace Admin invites you" in text_of(sent)
    assert f"{invitation.expires_at.astimezone(UTC):%B %Y, %H:%M} UTC" in text_of(sent)


async def test_the_link_of_an_invitation_names_our_address_whatever_host_was_asked_and_lets_its_reader_in(
    run: Run, smtp: SmtpServer, factory: Factory, client: AsyncClient, settings: Settings
) -> None:
    admin, invited = await factory.person(), f"{uuid4().hex}@example.com"
    headers = {**admin.headers, "Host": "evil.example.com", "X-Forwarded-Host": "evil.example.com"}
    asked = await client.post("/api/v1/users/invitations", headers=headers, json={"email": invited, "role": "member"})
    assert asked.status_code == 201
    ((mail_id,),) = await factory.run("SELECT id FROM mails WHERE tenant_id = :id", id=admin.tenant.id)
    await run(mail_id, tenant=admin.tenant)
    link = link_in(await smtp.mail_to(invited))
    assert link.startswith(f"{settings.public_url}/account/accept-invitation?")
    assert "evil" not in link
    # What the page makes of it (app/static/account.js).
    query, fragment = parse_qs(urlsplit(link).query), parse_qs(urlsplit(link).fragment)
    body = {"email": fragment["email"][0], "password": "a long passphrase", "full_name": "Ada Example", "tenant_slug": query["tenant"][0]}
    joined = await client.post("/api/v1/auth/register", headers={"X-Tenant-Slug": query["tenant"][0]}, json={**body, "invitation_token": fragment["token"][0]})
    assert (joined.status_code, joined.json()["role"]) == (201, "member")


async def test_an_invitation_that_is_withdrawn_or_over_is_not_mailed(run: Run, smtp: SmtpServer, factory: Factory) -> None:
    tenant = await factory.tenant()
    over, _ = await factory.invitation(tenant, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    for subject_id in (over.id, new_id(), None):
        mail = await factory.mail(tenant, template=MailTemplate.INVITATION, recipient=over.email, subject_id=subject_id)
        await run(mail)
        assert (await state_of(factory, mail))[0] == "dropped"
    assert smtp.mails_to(over.email) == []


async def test_an_invitation_whose_key_is_gone_is_given_up_with_the_reason(run: Run, factory: Factory) -> None:
    tenant = await factory.tenant()
    invitation, _ = await factory.invitation(tenant)
    mail = await factory.mail(tenant, template=MailTemplate.INVITATION, recipient=invitation.email, subject_id=invitation.id)
    with pytest.raises(GiveUp, match="invite again"):
        await run(mail, secret_key="another key, of more than thirty-two characters")


async def test_a_new_sign_in_says_when_from_where_and_by_what(run: Run, smtp: SmtpServer, factory: Factory) -> None:
    tenant = await factory.tenant()
    user = await factory.user(tenant)
    agent = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/120.0.0.0"
    for data in ({"ip_address": "192.0.2.7", "user_agent": agent}, {"ip_address": None, "user_agent": "see http://evil.example.com"}, {}):
        await run(await factory.mail(tenant, template=MailTemplate.NEW_SIGN_IN, recipient=user.email, subject_id=user.id, data=data))
    known, *unknown = (text_of(mail) for mail in smtp.mails_to(user.email))
    assert "192.0.2.7" in known
    assert agent in known
    assert f"{datetime.now(UTC):%B %Y}" in known
    assert len([text for text in unknown if "Internet address: unknown" in text and "program: unknown" in text]) == 2


async def test_news_reach_the_address_that_was_the_user_s_when_it_happened(run: Run, smtp: SmtpServer, factory: Factory) -> None:
    tenant, former = await factory.tenant(), f"{uuid4().hex}@example.com"
    user = await factory.user(tenant)
    await run(await factory.mail(tenant, template=MailTemplate.PASSWORD_CHANGED, recipient=former, subject_id=user.id))
    assert len(smtp.mails_to(former)) == 1


async def test_no_transaction_is_open_while_the_server_makes_us_wait(run: Run, smtp: SmtpServer, factory: Factory) -> None:
    tenant = await factory.tenant()
    user = await factory.user(tenant)
    mail = await factory.mail(tenant, recipient=user.email)
    attempts = smtp.attempts
    smtp.hanging = True
    sending = asyncio.create_task(run(mail))
    try:

        async def offered() -> bool:
            return smtp.attempts > attempts

        await eventually(offered)
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'saas_service' AND xact_start IS NOT NULL"
        assert await factory.run(sessions) == [(0,)]
    finally:
        smtp.hanging = False
        await sending
    assert await state_of(factory, mail) == ("sent", True)


async def test_neither_a_token_nor_an_address_is_written_down_where_it_does_not_belong(
    run: Run, smtp: SmtpServer, factory: Factory, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await factory.tenant()
    user = await factory.user(tenant, full_name="Nobody Elsewhere")
    async with services.database.transaction(tenant.id) as session:
        await post(session, tenant.id, MailTemplate.RESET_PASSWORD, user.email, subject_id=user.id)
    ((mail_id,),) = await factory.run("SELECT id FROM mails WHERE tenant_id = :id", id=tenant.id)
    logs = listen_to(monkeypatch, app.jobs.mail, app.utils.mailer)
    smtp.data_answer = f"451 {user.email}: not now"
    with pytest.raises(TryLater) as failed:
        await run(mail_id, tenant=tenant)
    smtp.data_answer = None
    await run(mail_id, tenant=tenant)
    token = token_in(await smtp.mail_to(user.email))
    assert [line["event"] for line in logs] == ["mail not sent", "mail sent"]
    queued = await factory.run("SELECT convert_from(payload, 'UTF8') FROM jobs.pgqueuer WHERE convert_from(payload, 'UTF8') LIKE :id", id=f"%{mail_id}%")
    stored = await factory.run(
        "SELECT to_jsonb(t)::text FROM one_time_tokens t WHERE id = :id UNION ALL SELECT to_jsonb(m)::text FROM mails m WHERE id = :id", id=mail_id
    )
    assert len(queued) == 1
    for place in (logs, queued, repr(failed.value), repr(failed.value.__context__)):
        assert user.email not in str(place)
    for place in (logs, queued, stored):
        assert token not in str(place)
        assert user.full_name not in str(place)


MARKUP = "<script>alert('x')</script><b>&"


async def test_names_cannot_put_markup_headers_or_links_into_a_mail(run: Run, smtp: SmtpServer, factory: Factory) -> None:
    tenant = await factory.tenant(name=f"Acme {MARKUP}\r\nBcc: all-of-you")
    user = await factory.user(tenant, full_name=f"Ada {MARKUP}\nX-Forged: yes")
    for template in ABOUT_A_USER:
        await factory.run("UPDATE users SET password_hash = NULL WHERE id = :id", id=user.id)
        await run(await factory.mail(tenant, template=template, recipient=user.email, data={"user_agent": MARKUP}))
    assert len(smtp.mails_to(user.email)) == len(ABOUT_A_USER)
    for mail in smtp.mails_to(user.email):
        assert "<script" not in html_of(mail)
        assert "&lt;script&gt;" in html_of(mail)
        assert "\n" not in mail["Subject"]
        assert {"Bcc", "X-Forged"} & set(mail.keys()) == set()
        assert text_of(mail).splitlines()[0] == f"Hello Ada {MARKUP} X-Forged: yes,"


async def test_a_stranger_s_name_cannot_carry_a_link_to_others(run: Run, smtp: SmtpServer, factory: Factory) -> None:
    tenant = await factory.tenant(name="You won! Go to prizes.example.net")
    admin = await factory.user(tenant, full_name="http://evil.example.com/")
    invitation, _ = await factory.invitation(tenant, invited_by=admin.id)
    await run(await factory.mail(tenant, recipient=admin.email))
    await run(await factory.mail(tenant, template=MailTemplate.INVITATION, recipient=invitation.email, subject_id=invitation.id))
    for mail in (await smtp.mail_to(admin.email), await smtp.mail_to(invitation.email)):
        everything = f"{mail['Subject']} {text_of(mail)} {html_of(mail)}"
        assert "evil" not in everything
        assert "prizes" not in everything
        assert tenant.slug in mail["Subject"]


@pytest.mark.parametrize(
    "word", ["=?utf-8?q?a=0D=0A=0D=0AGo=3A=20https=3A=2F=2Fevil=2Ecom=2F?=", "=?utf-8?b?ZUBldmlsLmNvbSw=?=", "=?utf-8?q?e=40evil=2Ecom=2C?="]
)
@pytest.mark.parametrize("field", ["full_name", "tenant_name"])
async def test_whoever_registers_under_another_s_address_sends_no_words_of_his_own(
    run: Run, client: AsyncClient, smtp: SmtpServer, factory: Factory, word: str, field: str
) -> None:
    """Encoded words (RFC 2047) are for programs to decode, and hide what they say from whoever looks at a name."""
    victim, slug = f"{uuid4().hex}@example.com", f"t-{uuid4().hex[:12]}"
    body = {"email": victim, "password": "a long passphrase", "full_name": "Ada", "tenant_slug": slug, field: word}
    assert (await client.post("/api/v1/auth/register", json=body)).status_code == 201
    ((tenant_id, mail_id),) = await factory.run("SELECT tenant_id, id FROM mails WHERE recipient = :email", email=victim)
    await run(mail_id, tenant=Tenant(id=tenant_id))
    ((recipients, content),) = smtp.raw
    assert recipients == [victim]
    assert smtp.mails[0]["Subject"] == f"Confirm your email address for {slug}"
    everything = content.decode() + text_of(smtp.mails[0]) + html_of(smtp.mails[0])
    assert [hidden for hidden in ("evil", "=?utf-8?") if hidden in everything] == []


async def test_the_mailer_of_development_needs_no_server(services: Services, settings: Settings, factory: Factory, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    tenant = await factory.tenant()
    user = await factory.user(tenant)
    mail = await factory.mail(tenant, recipient=user.email)
    mailer = Mailer(settings.smtp_url, settings.mail_from)
    tools = Tools(settings, services.redis, services.throttle, services.derived_tokens, mailer)
    await send_mail(TenantJob(services.database, tools, tenant.id), {"mail_id": str(mail.id)})
    assert len(list(tmp_path.glob(".local/outbox/*.eml"))) == 1
    assert await state_of(factory, mail) == ("sent", True)


def test_production_never_keeps_mail_to_itself() -> None:
    good = {
        "environment": "production",
        "secret_key": SecretStr("a key of production, longer than thirty-two characters"),
        "allowed_hosts": "api.example.org",
        "base_domain": "example.org",
        "public_url": "https://app.example.org",
        "mail_from": "no-reply@example.org",
    }
    assert Settings(_env_file=None, **good, smtp_url="smtps://mail.example.org").smtp_url is not None  # type: ignore[arg-type]  # checked by Pydantic
    with pytest.raises(ValueError, match="SMTP_URL"):
        Settings(_env_file=None, **good)  # type: ignore[arg-type]  # checked by Pydantic
