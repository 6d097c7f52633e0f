"""Addresses are verified by a link, which is good once; where that is demanded, nobody signs in before."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import FastAPI
from httpx import AsyncClient

from app.config import Settings
from app.core.derived_tokens import TokenKind, TokenName
from app.jobs.mail_contents import LINKS
from app.models import MailTemplate, TokenPurpose
from app.services.account_mail import TO_RECIPIENT
from tests.api.answers import accepted, refused
from tests.api.concurrency import statement_not_yet_committed
from tests.api.mails import mails
from tests.api.world import newcomer
from tests.clients import client_of
from tests.factories import PASSWORD, Factory, Person
from tests.faults.support import changed, running

VERIFY, RESEND, LOGIN = "/api/v1/auth/verify-email", "/api/v1/auth/verify-email/resend", "/api/v1/auth/login"


@pytest.fixture
async def stranger(app: FastAPI) -> AsyncIterator[AsyncClient]:
    async with client_of(app) as client:
        yield client


async def user_row(factory: Factory, user_id: UUID) -> tuple[str, bool, str | None]:
    ((email, verified, pending),) = await factory.run("SELECT email, email_verified, pending_email FROM users WHERE id = :id", id=user_id)
    return email, verified, pending


async def pending(factory: Factory, **values: Any) -> tuple[Person, str, str]:
    """Make a person who waits for a new address. Returns it, the address, and the token that was mailed there."""
    address = f"{uuid4().hex[:12]}@example.com"
    person = await factory.person(pending_email=address, **values)
    return person, address, await factory.mailed_token(person.user, TokenPurpose.VERIFY_EMAIL, email=address)


async def test_a_mailed_token_verifies_the_address(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    assert not accepted(await client.get("/api/v1/auth/me", headers=person.headers))["user"]["email_verified"]
    token = await factory.mailed_token(person.user, TokenPurpose.VERIFY_EMAIL)
    accepted(await client.post(VERIFY, json={"token": token}), 204)
    shown = accepted(await client.get("/api/v1/auth/me", headers=person.headers))["user"]
    assert shown["email_verified"]
    assert shown["updated_at"] > shown["created_at"]


async def test_a_token_is_good_once(client: AsyncClient, factory: Factory) -> None:
    token = await factory.mailed_token((await factory.person()).user, TokenPurpose.VERIFY_EMAIL)
    accepted(await client.post(VERIFY, json={"token": token}), 204)
    refused(await client.post(VERIFY, json={"token": token}), 400, "link_invalid")


async def test_whoever_is_deleted_meanwhile_verifies_nothing_and_stands_in_nobody_s_way(
    client: AsyncClient, factory: Factory, database_urls: tuple[str, str]
) -> None:
    """The deletion would wait for the token, which waited for the user: a deadlock."""
    person = await factory.person()
    token = await factory.mailed_token(person.user, TokenPurpose.VERIFY_EMAIL)
    async with statement_not_yet_committed(database_urls[0], "SELECT FROM users WHERE id = $1 FOR UPDATE", person.user.id) as deleting:
        deletion = ("DELETE FROM sessions WHERE user_id = $1", person.user.id), ("DELETE FROM users WHERE id = $1", person.user.id)
        asked = client.post(VERIFY, json={"token": token})
        response = await deleting.commit_while(asked, ("SELECT set_config('lock_timeout', $1, true)", "500ms"), *deletion)
    refused(response, 400, "link_invalid")


async def test_of_many_uses_at_once_one_succeeds(client: AsyncClient, factory: Factory) -> None:
    token = await factory.mailed_token((await factory.person()).user, TokenPurpose.VERIFY_EMAIL)
    answers = await asyncio.gather(*(client.post(VERIFY, json={"token": token}) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [204] + [400] * 9


async def test_every_token_that_is_no_good_is_refused_alike(client: AsyncClient, factory: Factory) -> None:
    person, other = await factory.person(), await factory.person()
    good = await factory.mailed_token(person.user, TokenPurpose.VERIFY_EMAIL)
    expired = await factory.mailed_token(person.user, TokenPurpose.VERIFY_EMAIL, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    wrong = {
        "nonsense": "nonsense",
        "empty": "",
        "no longer base64": "é" * 91,
        "altered": good[:-2] + ("AA" if good[-2:] != "AA" else "BB"),
        "expired": expired,
        "for another purpose": await factory.mailed_token(person.user, TokenPurpose.RESET_PASSWORD),
        "of another kind": factory.derived_tokens.make(TokenKind.REFRESH, TokenName(person.tenant.id, person.session_id)),
        "never mailed": factory.derived_tokens.make(TokenKind.MAILED, TokenName(person.tenant.id, uuid4())),
        "of no tenant": factory.derived_tokens.make(TokenKind.MAILED, TokenName(uuid4(), uuid4())),
    }
    texts = {refused(await client.post(VERIFY, json={"token": token}), 400, "link_invalid")["detail"] for token in wrong.values()}
    elsewhere = await client.post(VERIFY, json={"token": good}, headers={"X-Tenant-Slug": other.tenant.slug})
    texts.add(refused(elsewhere, 400, "link_invalid")["detail"])
    assert len(texts) == 1
    assert await user_row(factory, person.user.id) == (person.user.email, False, None)
    accepted(await client.post(VERIFY, json={"token": good}, headers={"X-Tenant-Slug": person.tenant.slug}), 204)


async def test_a_token_of_a_suspended_tenant_waits(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person(await factory.tenant(is_active=False))
    token = await factory.mailed_token(person.user, TokenPurpose.VERIFY_EMAIL)
    refused(await client.post(VERIFY, json={"token": token}), 403, "tenant_inactive")
    await factory.run("UPDATE tenants SET is_active = true WHERE id = :id", id=person.tenant.id)
    accepted(await client.post(VERIFY, json={"token": token}), 204)


# ─── A new address ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_new_address_counts_once_it_is_verified(client: AsyncClient, factory: Factory) -> None:
    person, address, token = await pending(factory)
    accepted(await client.get("/api/v1/auth/me", headers=person.headers))
    accepted(await client.post(VERIFY, json={"token": token}), 204)
    assert await user_row(factory, person.user.id) == (address, True, None)
    assert accepted(await client.get("/api/v1/auth/me", headers=person.headers))["user"]["email"] == address
    body = {"email": address, "password": PASSWORD, "tenant_slug": person.tenant.slug}
    accepted(await client.post(LOGIN, json=body))
    refused(await client.post(LOGIN, json={**body, "email": person.user.email}), 401, "invalid_credentials")


async def test_a_new_address_that_somebody_else_has_by_now_is_refused_and_the_token_stays_unused(client: AsyncClient, factory: Factory) -> None:
    person, address, token = await pending(factory)
    rival = await factory.user(person.tenant, email=address)
    refused(await client.post(VERIFY, json={"token": token}), 409, "email_taken")
    assert await user_row(factory, person.user.id) == (person.user.email, False, address)
    await factory.run("DELETE FROM users WHERE id = :id", id=rival.id)
    accepted(await client.post(VERIFY, json={"token": token}), 204)


async def test_two_people_of_a_tenant_never_get_the_same_address(client: AsyncClient, factory: Factory) -> None:
    tenant, address = await factory.tenant(), f"{uuid4().hex[:12]}@example.com"
    people = [await factory.person(tenant, pending_email=address) for _ in range(2)]
    tokens = [await factory.mailed_token(person.user, TokenPurpose.VERIFY_EMAIL, email=address) for person in people]
    answers = await asyncio.gather(*(client.post(VERIFY, json={"token": token}) for token in tokens))
    assert sorted(answer.status_code for answer in answers) == [204, 409]


async def test_a_token_for_an_address_that_was_given_up_is_dead(client: AsyncClient, factory: Factory) -> None:
    person, _, token = await pending(factory)
    await factory.run("UPDATE users SET pending_email = 'another@example.com' WHERE id = :id", id=person.user.id)
    refused(await client.post(VERIFY, json={"token": token}), 400, "link_invalid")
    old = await factory.mailed_token(person.user, TokenPurpose.VERIFY_EMAIL)
    await factory.run("UPDATE users SET email = 'another@example.com', pending_email = NULL WHERE id = :id", id=person.user.id)
    refused(await client.post(VERIFY, json={"token": old}), 400, "link_invalid")
    assert await user_row(factory, person.user.id) == ("another@example.com", False, None)


# ─── Mail ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_registration_has_the_link_mailed(stranger: AsyncClient, factory: Factory) -> None:
    open_tenant = await factory.tenant(registration_policy="open")
    for asked in (newcomer(), {**newcomer(), "tenant_slug": open_tenant.slug}):
        user = accepted(await stranger.post("/api/v1/auth/register", json=asked), 201)
        assert await mails(factory, UUID(user["tenant"]["id"])) == [(asked["email"], UUID(user["id"]), {})]


async def test_a_registration_that_fails_mails_nothing(stranger: AsyncClient, factory: Factory) -> None:
    person = await factory.person(await factory.tenant(registration_policy="open"))
    asked = newcomer(email=person.user.email, tenant_slug=person.tenant.slug)
    refused(await stranger.post("/api/v1/auth/register", json=asked), 409, "email_taken")
    assert await mails(factory, person.tenant.id) == []


async def test_the_link_is_mailed_again_whoever_asks(stranger: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    for email in (person.user.email.upper(), f"{uuid4().hex}@example.com", "no address at all"):
        accepted(await stranger.post(RESEND, json={"email": email, "tenant_slug": person.tenant.slug}), 202)
    posted = await mails(factory, person.tenant.id, MailTemplate.VERIFY_EMAIL)
    assert posted[0][:2] == (person.user.email, None)
    assert len(posted) == 3


async def test_resend_and_forgot_tell_nobody_from_anybody(stranger: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    suspended = await factory.person(await factory.tenant(is_active=False))
    known = {"email": person.user.email, "tenant_slug": person.tenant.slug}
    unknown = (
        {**known, "email": f"{uuid4().hex}@example.com"},
        {**known, "email": "no address at all"},
        {**known, "tenant_slug": f"none-{uuid4().hex[:12]}"},
        {**known, "tenant_slug": "No Slug At All!"},
        {"email": suspended.user.email, "tenant_slug": suspended.tenant.slug},
    )
    for path in (RESEND, "/api/v1/auth/password/forgot"):
        answers = [await stranger.post(path, json=body, headers={"X-Request-ID": "the-same"}) for body in (known, *unknown)]
        assert {(answer.status_code, answer.content, tuple(sorted(answer.headers))) for answer in answers} == {
            (202, answers[0].content, tuple(sorted(answers[0].headers)))
        }
    assert await mails(factory, suspended.tenant.id) == []


# ─── Floods ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("path", "template"), [(RESEND, MailTemplate.VERIFY_EMAIL), ("/api/v1/auth/password/forgot", MailTemplate.RESET_PASSWORD)])
async def test_nobody_is_mailed_more_than_three_times_in_a_row(app: FastAPI, factory: Factory, path: str, template: str) -> None:
    person = await factory.person()
    for _ in range(8):
        async with client_of(app) as client:
            accepted(await client.post(path, json={"email": person.user.email, "tenant_slug": person.tenant.slug}), 202)
    assert len(await mails(factory, person.tenant.id, template)) == 3


def test_strangers_who_ask_for_links_cannot_keep_the_owner_from_having_one_that_works() -> None:
    _, lifetime, _ = LINKS[MailTemplate.RESET_PASSWORD]
    assert TO_RECIPIENT.longest_pause < lifetime.total_seconds() - 300


async def test_many_requests_at_once_mail_no_more(app: FastAPI, stranger: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    body = {"email": person.user.email, "tenant_slug": person.tenant.slug}
    await asyncio.gather(*(stranger.post(RESEND, json=body) for _ in range(15)))
    assert len(await mails(factory, person.tenant.id)) == 3


async def test_a_client_has_twenty_mails_sent_an_hour_and_cannot_use_up_others(app: FastAPI, factory: Factory) -> None:
    tenant = await factory.tenant()
    network = f"2001:db8:{uuid4().hex[:4]}:1"
    for number in range(25):
        async with client_of(app, f"{network}::{number:x}") as client:
            accepted(await client.post(RESEND, json={"email": f"{number}@example.com", "tenant_slug": tenant.slug}), 202)
            accepted(await client.post(RESEND, json={"email": "victim@example.com", "tenant_slug": tenant.slug}), 202) if number > 20 else None
    assert len(await mails(factory, tenant.id)) == 20
    async with client_of(app) as client:
        accepted(await client.post(RESEND, json={"email": "victim@example.com", "tenant_slug": tenant.slug}), 202)
    assert len(await mails(factory, tenant.id)) == 21


# ─── Signing in ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
async def strict(settings: Settings) -> AsyncIterator[AsyncClient]:
    """A client of a service that demands verified addresses."""
    async with running(changed(settings, email_verification_required=True)) as (_, client):
        yield client


async def test_where_it_is_demanded_nobody_signs_in_before(strict: AsyncClient, client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    body = {"email": person.user.email, "password": PASSWORD, "tenant_slug": person.tenant.slug}
    refused(await strict.post(LOGIN, json=body), 403, "email_not_verified")
    accepted(await client.post(LOGIN, json=body))
    token = await factory.mailed_token(person.user, TokenPurpose.VERIFY_EMAIL)
    accepted(await strict.post(VERIFY, json={"token": token}), 204)
    accepted(await strict.post(LOGIN, json=body))


async def test_only_the_right_password_tells_that_an_address_is_not_verified(strict: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    body = {"email": person.user.email, "password": "a wrong passphrase", "tenant_slug": person.tenant.slug}
    refused(await strict.post(LOGIN, json=body), 401, "invalid_credentials")


async def test_an_account_that_is_off_says_so_first(strict: AsyncClient, factory: Factory) -> None:
    person = await factory.person(is_active=False)
    body = {"email": person.user.email, "password": PASSWORD, "tenant_slug": person.tenant.slug}
    refused(await strict.post(LOGIN, json=body), 403, "account_inactive")
