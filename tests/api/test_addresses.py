"""A new address of a user counts once it is verified."""

from typing import Any
from uuid import uuid4

import pytest
from httpx import AsyncClient

from app.models import MailTemplate, Role, TokenPurpose, User
from tests.api.answers import accepted, refused
from tests.api.mails import Asked, mails_of
from tests.factories import PASSWORD, Factory, Person

USERS = "/api/v1/users"


def an_address() -> str:
    return f"{uuid4().hex[:12]}@example.com"


async def patched(client: AsyncClient, person: Person, user: User, **change: Any) -> dict[str, Any]:
    answer: dict[str, Any] = accepted(await client.patch(f"{USERS}/{user.id}", headers=person.headers, json=change))
    return answer


async def waiting(factory: Factory, user: User) -> str | None:
    ((email,),) = await factory.run("SELECT pending_email FROM users WHERE id = :id", id=user.id)
    assert email is None or isinstance(email, str)
    return email


@pytest.mark.parametrize("role", list(Role))
async def test_a_new_address_waits_and_the_answer_shows_the_old_one(client: AsyncClient, factory: Factory, role: Role) -> None:
    person = await factory.person(role=role, email_verified=True)
    own = f"{USERS}/{person.user.id}"
    before = accepted(await client.get(own, headers=person.headers))
    email = an_address()
    assert await patched(client, person, person.user, email=email) == before
    assert accepted(await client.get(own, headers=person.headers)) == before
    assert await waiting(factory, person.user) == email


async def test_a_link_is_mailed_to_the_new_address(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person(role=Role.VIEWER)
    email = an_address()
    await patched(client, person, person.user, email=email.upper())
    assert await mails_of(factory, person.tenant) == [Asked(MailTemplate.VERIFY_EMAIL, email, person.user.id, {}, has_job=True)]


async def test_an_admin_changes_the_address_of_another_in_the_same_way(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    user = await factory.user(admin.tenant)
    email = an_address()
    answer = await patched(client, admin, user, email=email, full_name="Other Name")
    assert (answer["email"], answer["full_name"]) == (user.email, "Other Name")
    assert await waiting(factory, user) == email
    assert [mail.recipient for mail in await mails_of(factory, admin.tenant)] == [email]


async def test_the_old_address_signs_in_while_the_new_one_waits(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    email = an_address()
    await patched(client, person, person.user, email=email)
    credentials = {"email": person.user.email, "password": PASSWORD, "tenant_slug": person.tenant.slug}
    accepted(await client.post("/api/v1/auth/login", json=credentials))
    refused(await client.post("/api/v1/auth/login", json={**credentials, "email": email}), 401, "invalid_credentials")


async def test_the_present_address_takes_back_the_one_that_waits(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    await patched(client, person, person.user, email=an_address())
    await patched(client, person, person.user, full_name="Other Name")
    assert await waiting(factory, person.user) is not None
    await patched(client, person, person.user, email=person.user.email.upper())
    assert await waiting(factory, person.user) is None
    assert len(await mails_of(factory, person.tenant)) == 1


async def test_another_new_address_replaces_the_one_that_waits(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    first, second = an_address(), an_address()
    for email in (first, second):
        await patched(client, person, person.user, email=email)
    assert await waiting(factory, person.user) == second
    assert [mail.recipient for mail in await mails_of(factory, person.tenant)] == [first, second]


@pytest.mark.parametrize("was_verified", [True, False])
async def test_the_old_address_is_told_once_the_new_one_counts_if_its_owner_had_verified_it(client: AsyncClient, factory: Factory, was_verified: bool) -> None:
    person = await factory.person(email_verified=was_verified)
    email = an_address()
    await patched(client, person, person.user, email=email)
    token = await factory.mailed_token(person.user, TokenPurpose.VERIFY_EMAIL, email=email)
    accepted(await client.post("/api/v1/auth/verify-email", json={"token": token}), 204)
    news = Asked(MailTemplate.ADDRESS_CHANGED, person.user.email, person.user.id, {}, has_job=True)
    assert [mail for mail in await mails_of(factory, person.tenant) if mail.template != MailTemplate.VERIFY_EMAIL] == [news] * was_verified


async def test_an_address_that_is_merely_verified_is_no_news(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    token = await factory.mailed_token(person.user, TokenPurpose.VERIFY_EMAIL)
    accepted(await client.post("/api/v1/auth/verify-email", json={"token": token}), 204)
    assert await mails_of(factory, person.tenant) == []


async def test_an_address_of_another_user_is_taken_and_no_mail_leaves(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    other = await factory.user(person.tenant)
    refused(await client.patch(f"{USERS}/{person.user.id}", headers=person.headers, json={"email": other.email.upper()}), 409, "email_taken")
    assert await waiting(factory, person.user) is None
    assert await mails_of(factory, person.tenant) == []


async def test_an_address_that_waits_for_somebody_is_not_taken(client: AsyncClient, factory: Factory) -> None:
    """Otherwise anybody could keep addresses from their owners by asking for them."""
    person = await factory.person()
    email = an_address()
    await patched(client, person, person.user, email=email)
    accepted(await client.post(USERS, headers=person.headers, json={"email": email, "full_name": "Owner", "password": PASSWORD}), 201)


async def test_a_refused_change_leaves_no_address_waiting(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    change = {"email": an_address(), "role": "viewer"}
    refused(await client.patch(f"{USERS}/{admin.user.id}", headers=admin.headers, json=change), 409, "last_admin")
    assert await waiting(factory, admin.user) is None
    assert await mails_of(factory, admin.tenant) == []


async def test_a_user_without_a_password_is_mailed_a_link_to_choose_one(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    email = an_address()
    created = accepted(await client.post(USERS, headers=admin.headers, json={"email": email, "full_name": "New Person", "role": "member"}), 201)
    assert (created["role"], created["is_active"], created["email_verified"]) == ("member", True, False)
    ((mail),) = await mails_of(factory, admin.tenant)
    assert (mail.template, mail.recipient, str(mail.subject_id), mail.has_job) == (MailTemplate.SET_PASSWORD, email, created["id"], True)
    for password in ("", PASSWORD, "None"):
        credentials = {"email": email, "password": password, "tenant_slug": admin.tenant.slug}
        refused(await client.post("/api/v1/auth/login", json=credentials), 401, "invalid_credentials")


async def test_a_user_with_a_password_is_mailed_a_link_to_verify_the_address(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    email = an_address()
    created = accepted(await client.post(USERS, headers=admin.headers, json={"email": email, "full_name": "New Person", "password": PASSWORD}), 201)
    ((mail),) = await mails_of(factory, admin.tenant)
    assert (mail.template, mail.recipient, str(mail.subject_id), mail.has_job) == (MailTemplate.VERIFY_EMAIL, email, created["id"], True)


async def test_a_user_who_could_not_be_added_gets_no_mail(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    refused(await client.post(USERS, headers=admin.headers, json={"email": admin.user.email, "full_name": "Twin"}), 409, "email_taken")
    assert await mails_of(factory, admin.tenant) == []
