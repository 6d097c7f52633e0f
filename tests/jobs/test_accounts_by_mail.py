"""The whole way of an account by mail: the API, a real worker, a real SMTP server, and the links that it was sent."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from httpx import AsyncClient

from app.config import Settings
from app.services.mail import SEND_MAIL
from tests.api.answers import accepted, refused
from tests.factories import PASSWORD, Factory, Person
from tests.faults.support import Process, environment_of, eventually, process
from tests.jobs.support import WORKER, said
from tests.mail.smtp_server import SmtpServer, token_in

AUTH = "/api/v1/auth"
NEW_PASSWORD = "another long passphrase"


@pytest.fixture
def worker(settings: Settings, smtp: SmtpServer, tmp_path: Path) -> Iterator[Process]:
    """A worker that sends mail to the test's SMTP server."""
    with process(tmp_path, WORKER, environment_of(settings, smtp_url=smtp.url, log_level="INFO")) as started:
        yield started


def fresh_email() -> str:
    return f"{uuid4().hex[:16]}@example.com"


async def sign_in(client: AsyncClient, email: str, password: str, slug: str) -> int:
    answer = await client.post(f"{AUTH}/login", json={"email": email, "password": password, "tenant_slug": slug})
    return answer.status_code


async def user_of(client: AsyncClient, person: Person) -> dict[str, object]:
    user: dict[str, object] = accepted(await client.get(f"/api/v1/users/{person.user.id}", headers=person.headers))
    return user


@pytest.mark.usefixtures("worker")
async def test_a_registered_address_is_verified_by_the_link_that_it_was_mailed(client: AsyncClient, smtp: SmtpServer) -> None:
    email, slug = fresh_email(), f"t-{uuid4().hex[:12]}"
    newcomer = {"email": email, "password": PASSWORD, "full_name": "New Person", "tenant_slug": slug}
    assert not accepted(await client.post(f"{AUTH}/register", json=newcomer), 201)["email_verified"]
    accepted(await client.post(f"{AUTH}/verify-email", json={"token": token_in(await smtp.mail_to(email))}), 204)
    signed_in = accepted(await client.post(f"{AUTH}/login", json={"email": email, "password": PASSWORD, "tenant_slug": slug}))
    assert signed_in["user"]["email_verified"]


@pytest.mark.usefixtures("worker")
async def test_a_forgotten_password_is_replaced_by_the_link_and_every_session_ends(client: AsyncClient, factory: Factory, smtp: SmtpServer) -> None:
    person = await factory.person()
    email, slug = person.user.email, person.tenant.slug
    accepted(await client.post(f"{AUTH}/password/forgot", json={"email": email, "tenant_slug": slug}), 202)
    token = token_in(await smtp.mail_to(email))
    accepted(await client.post(f"{AUTH}/password/reset", json={"token": token, "password": NEW_PASSWORD}), 204)
    refused(await client.get(f"{AUTH}/me", headers=person.headers), 401, "token_revoked")
    refused(await client.post(f"{AUTH}/password/reset", json={"token": token, "password": NEW_PASSWORD}), 400, "link_invalid")
    assert [await sign_in(client, email, password, slug) for password in (PASSWORD, NEW_PASSWORD)] == [401, 200]
    assert (await smtp.mail_to(email))["Subject"] == f"Your password for {person.tenant.name} was changed"


@pytest.mark.usefixtures("worker")
async def test_a_new_address_counts_from_its_link_on(client: AsyncClient, factory: Factory, smtp: SmtpServer) -> None:
    person, email = await factory.person(), fresh_email()
    accepted(await client.patch(f"/api/v1/users/{person.user.id}", json={"email": email}, headers=person.headers))
    token = token_in(await smtp.mail_to(email))
    assert (await user_of(client, person))["email"] == person.user.email
    accepted(await client.post(f"{AUTH}/verify-email", json={"token": token}), 204)
    user = await user_of(client, person)
    assert (user["email"], user["email_verified"]) == (email, True)
    assert [await sign_in(client, address, PASSWORD, person.tenant.slug) for address in (person.user.email, email)] == [401, 200]


@pytest.mark.usefixtures("worker")
async def test_who_is_invited_joins_by_the_link(client: AsyncClient, factory: Factory, smtp: SmtpServer) -> None:
    admin, email = await factory.person(await factory.tenant(registration_policy="invite_only")), fresh_email()
    accepted(await client.post("/api/v1/users/invitations", json={"email": email, "role": "member"}, headers=admin.headers), 201)
    newcomer = {"email": email, "password": PASSWORD, "full_name": "Invited Person", "tenant_slug": admin.tenant.slug}
    refused(await client.post(f"{AUTH}/register", json=newcomer), 403, "registration_closed")
    token = token_in(await smtp.mail_to(email))
    user = accepted(await client.post(f"{AUTH}/register", json={**newcomer, "invitation_token": token}), 201)
    assert (user["role"], user["is_active"], user["email_verified"]) == ("member", True, True)
    assert await sign_in(client, email, PASSWORD, admin.tenant.slug) == 200


@pytest.mark.usefixtures("worker")
async def test_a_user_made_without_a_password_chooses_one_by_the_link(client: AsyncClient, factory: Factory, smtp: SmtpServer) -> None:
    admin, email = await factory.person(), fresh_email()
    accepted(await client.post("/api/v1/users", json={"email": email, "full_name": "New Person"}, headers=admin.headers), 201)
    token = token_in(await smtp.mail_to(email))
    accepted(await client.post(f"{AUTH}/password/reset", json={"token": token, "password": NEW_PASSWORD}), 204)
    assert await sign_in(client, email, NEW_PASSWORD, admin.tenant.slug) == 200


async def test_while_the_mail_server_is_away_for_an_hour_requests_go_on_and_each_mail_arrives_once_it_is_back(
    client: AsyncClient, factory: Factory, smtp: SmtpServer, worker: Process
) -> None:
    """The hour is made to pass by setting back when each job is due, as often as it would have been tried."""
    people = [await factory.person() for _ in range(3)]
    await said(worker, "worker started")
    smtp.stop()
    for person in people:
        asked = {"email": person.user.email, "tenant_slug": person.tenant.slug}
        answer = await client.post(f"{AUTH}/password/forgot", json=asked)
        assert answer.status_code == 202
    # 1, 2, 4 … 512 s and then 600 s: after some fifteen tries an hour is over.
    for attempt in range(1, 4):

        async def all_tried(times: int = attempt) -> bool:
            rows = await factory.run(
                "SELECT count(*) FROM jobs.pgqueuer WHERE entrypoint = :kind AND status = 'queued' AND attempts >= :n", kind=SEND_MAIL, n=times
            )
            return bool(rows[0][0] == len(people))

        await eventually(all_tried)
        await factory.run("UPDATE jobs.pgqueuer SET execute_after = now() - interval '1 second' WHERE entrypoint = :kind AND status = 'queued'", kind=SEND_MAIL)
    assert smtp.mails == []
    await factory.run("UPDATE jobs.pgqueuer SET created = created - interval '1 hour', attempts = 15 WHERE entrypoint = :kind", kind=SEND_MAIL)
    await factory.run("UPDATE mails SET created_at = created_at - interval '1 hour' WHERE state = 'waiting'")
    smtp.start()
    await factory.run("UPDATE jobs.pgqueuer SET execute_after = now() - interval '1 second' WHERE entrypoint = :kind AND status = 'queued'", kind=SEND_MAIL)
    for person in people:
        mail = await smtp.mail_to(person.user.email)
        # Its half an hour counts from now on.
        accepted(await client.post(f"{AUTH}/password/reset", json={"token": token_in(mail), "password": NEW_PASSWORD}), 204)
    for person in people:
        await smtp.mail_to(person.user.email)
    assert sorted(len(smtp.mails_to(person.user.email)) for person in people) == [2, 2, 2]
