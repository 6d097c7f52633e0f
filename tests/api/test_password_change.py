"""A forgotten password is reset by a mailed link; a known one is changed by whoever knows it."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from httpx import AsyncClient

from app.core.throttle import key_of
from app.models import MailTemplate, TokenPurpose
from app.services.container import Services
from app.services.sign_in import account
from tests.api.answers import accepted, refused
from tests.api.mails import mails
from tests.factories import PASSWORD, Factory, Person

RESET, CHANGE, LOGIN, ME = "/api/v1/auth/password/reset", "/api/v1/auth/password/change", "/api/v1/auth/login", "/api/v1/auth/me"
ANOTHER = "another long passphrase"


async def signs_in(client: AsyncClient, person: Person, password: str) -> bool:
    body = {"email": person.user.email, "password": password, "tenant_slug": person.tenant.slug}
    answer = await client.post(LOGIN, json=body)
    assert answer.status_code in (200, 401), answer.text
    return answer.status_code == 200


async def is_live(client: AsyncClient, person: Person) -> bool:
    return (await client.get(ME, headers=person.headers)).status_code == 200


async def reset_token(factory: Factory, person: Person) -> str:
    return await factory.mailed_token(person.user, TokenPurpose.RESET_PASSWORD)


# ─── Reset ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_mailed_link_sets_a_new_password(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    accepted(await client.post(RESET, json={"token": await reset_token(factory, person), "password": ANOTHER}), 204)
    assert await signs_in(client, person, ANOTHER)
    assert not await signs_in(client, person, PASSWORD)


async def test_a_reset_ends_every_session_at_once(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    elsewhere, colleague = await factory.sign_in(person.tenant, person.user), await factory.person(person.tenant)
    assert all([await is_live(client, one) for one in (person, elsewhere, colleague)])
    accepted(await client.post(RESET, json={"token": await reset_token(factory, person), "password": ANOTHER}), 204)
    for ended in (person, elsewhere):
        refused(await client.get(ME, headers=ended.headers), 401, "token_revoked")
    assert await is_live(client, colleague)


async def test_a_reset_verifies_the_address_and_is_told_by_mail(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    accepted(await client.post(RESET, json={"token": await reset_token(factory, person), "password": ANOTHER}), 204)
    assert await factory.run("SELECT email_verified FROM users WHERE id = :id", id=person.user.id) == [(True,)]
    assert await mails(factory, person.tenant.id) == [(person.user.email, person.user.id, {})]
    assert len(await mails(factory, person.tenant.id, MailTemplate.PASSWORD_CHANGED)) == 1


async def test_a_link_is_good_once_and_ends_all_others(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    first, second = await reset_token(factory, person), await reset_token(factory, person)
    accepted(await client.post(RESET, json={"token": first, "password": ANOTHER}), 204)
    for token in (first, second):
        refused(await client.post(RESET, json={"token": token, "password": "a third passphrase"}), 400, "link_invalid")
    assert await signs_in(client, person, ANOTHER)


async def test_of_many_resets_at_once_one_succeeds(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    tokens = [await reset_token(factory, person), await reset_token(factory, person)]
    passwords = [f"passphrase number {number}" for number in range(8)]
    answers = await asyncio.gather(*(client.post(RESET, json={"token": tokens[n % 2], "password": password}) for n, password in enumerate(passwords)))
    assert sorted(answer.status_code for answer in answers) == [204] + [400] * 7
    (chosen,) = [password for password, answer in zip(passwords, answers, strict=True) if answer.status_code == 204]
    assert await signs_in(client, person, chosen)


async def test_links_that_are_no_good_are_refused_before_anything_is_hashed(
    client: AsyncClient, factory: Factory, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, other = await factory.person(), await factory.person()
    good = await reset_token(factory, person)
    wrong = (
        "nonsense",
        await factory.mailed_token(person.user, TokenPurpose.VERIFY_EMAIL),
        await factory.mailed_token(person.user, TokenPurpose.RESET_PASSWORD, expires_at=datetime.now(UTC) - timedelta(seconds=1)),
        await factory.mailed_token(person.user, TokenPurpose.RESET_PASSWORD, used_at=datetime.now(UTC)),
    )
    monkeypatch.setattr(services.passwords, "hash", None)
    for token in wrong:
        refused(await client.post(RESET, json={"token": token, "password": ANOTHER}), 400, "link_invalid")
    elsewhere = await client.post(RESET, json={"token": good, "password": ANOTHER}, headers={"X-Tenant-Slug": other.tenant.slug})
    refused(elsewhere, 400, "link_invalid")
    assert await is_live(client, person)


async def test_a_link_that_was_mailed_to_a_former_address_is_dead(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    token = await reset_token(factory, person)
    await factory.run("UPDATE users SET email = :email WHERE id = :id", email=f"{uuid4().hex}@example.com", id=person.user.id)
    refused(await client.post(RESET, json={"token": token, "password": ANOTHER}), 400, "link_invalid")
    assert await is_live(client, person)


async def test_a_weak_password_does_not_use_the_link_up(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    token = await reset_token(factory, person)
    for weak in ("password1", person.user.email, person.tenant.name, person.tenant.slug):
        refused(await client.post(RESET, json={"token": token, "password": weak}), 422, "weak_password")
    accepted(await client.post(RESET, json={"token": token, "password": ANOTHER}), 204)


async def test_whoever_was_invited_without_a_password_gets_one_this_way(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person(password_hash=None)
    accepted(await client.post(RESET, json={"token": await reset_token(factory, person), "password": ANOTHER}), 204)
    assert await signs_in(client, person, ANOTHER)


async def test_a_reset_does_not_switch_an_account_on(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person(is_active=False)
    accepted(await client.post(RESET, json={"token": await reset_token(factory, person), "password": ANOTHER}), 204)
    body = {"email": person.user.email, "password": ANOTHER, "tenant_slug": person.tenant.slug}
    refused(await client.post(LOGIN, json=body), 403, "account_inactive")


async def test_a_reset_lets_the_owner_in_although_others_have_guessed(client: AsyncClient, factory: Factory, services: Services) -> None:
    person = await factory.person()
    await services.redis.client.set(key_of(account(person.tenant.slug, person.user.email)), f"9:{2**50}", px=60_000)
    for _ in range(6):
        await client.post(LOGIN, json={"email": person.user.email, "password": "wrong", "tenant_slug": person.tenant.slug})
    accepted(await client.post(RESET, json={"token": await reset_token(factory, person), "password": ANOTHER}), 204)
    assert await signs_in(client, person, ANOTHER)


# ─── Change ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_whoever_knows_the_password_changes_it(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    accepted(await client.post(CHANGE, headers=person.headers, json={"current_password": PASSWORD, "new_password": ANOTHER}), 204)
    assert await signs_in(client, person, ANOTHER)
    assert not await signs_in(client, person, PASSWORD)
    assert await mails(factory, person.tenant.id, MailTemplate.PASSWORD_CHANGED) == [(person.user.email, person.user.id, {})]


async def test_a_change_ends_every_other_session_and_every_open_link(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    elsewhere, token = await factory.sign_in(person.tenant, person.user), await reset_token(factory, person)
    assert await is_live(client, elsewhere)
    accepted(await client.post(CHANGE, headers=person.headers, json={"current_password": PASSWORD, "new_password": ANOTHER}), 204)
    assert await is_live(client, person)
    refused(await client.get(ME, headers=elsewhere.headers), 401, "token_revoked")
    refused(await client.post(RESET, json={"token": token, "password": "a third passphrase"}), 400, "link_invalid")


async def test_a_wrong_current_password_changes_nothing(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    elsewhere = await factory.sign_in(person.tenant, person.user)
    body = {"current_password": "a wrong passphrase", "new_password": ANOTHER}
    refused(await client.post(CHANGE, headers=person.headers, json=body), 403, "wrong_password")
    assert await signs_in(client, person, PASSWORD)
    assert await is_live(client, elsewhere)
    assert await mails(factory, person.tenant.id, MailTemplate.PASSWORD_CHANGED) == []


async def test_a_weak_new_password_is_refused_and_named(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    for weak in ("password1", person.user.email, person.tenant.name, person.tenant.slug):
        body = {"current_password": PASSWORD, "new_password": weak}
        document = refused(await client.post(CHANGE, headers=person.headers, json=body), 422, "weak_password")
        assert document["errors"][0]["loc"] == ["body", "new_password"]


async def test_of_two_changes_at_once_one_succeeds(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    passwords = [f"passphrase number {number}" for number in range(4)]
    bodies = [{"current_password": PASSWORD, "new_password": password} for password in passwords]
    answers = await asyncio.gather(*(client.post(CHANGE, headers=person.headers, json=body) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [204] + [403] * 3
    (chosen,) = [password for password, answer in zip(passwords, answers, strict=True) if answer.status_code == 204]
    assert await signs_in(client, person, chosen)


async def test_guessing_through_a_stolen_token_is_slowed_down_apart_from_signing_in(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    body = {"current_password": "a wrong passphrase", "new_password": ANOTHER}
    for _ in range(5):
        refused(await client.post(CHANGE, headers=person.headers, json=body), 403, "wrong_password")
    throttled = await client.post(CHANGE, headers=person.headers, json={**body, "current_password": PASSWORD})
    refused(throttled, 429, "sign_in_throttled")
    assert 55 <= int(throttled.headers["Retry-After"]) <= 60
    assert await signs_in(client, person, PASSWORD)
