"""Within a tenant, people have only so many mails sent; what one tenant sends is neither refused nor told because of another.

How much mail reaches a stranger from all tenants together is held by tests/jobs/test_mail_admission.py.
"""

from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response

from app.database_faults import TransactionConflict
from app.services.account_mail import FOR_SENDER, FROM_TENANT
from app.services.container import Services
from app.services.mail import post
from tests.api.answers import accepted, refused
from tests.clients import client_of
from tests.factories import PASSWORD, Factory, Person

INVITATIONS = "/api/v1/users/invitations"
REGISTER = "/api/v1/auth/register"


def stranger() -> str:
    return f"{uuid4().hex[:16]}@example.com"


async def invite(client: AsyncClient, admin: Person, email: str) -> Response:
    return await client.post(INVITATIONS, json={"email": email, "role": "viewer"}, headers=admin.headers)


async def add(client: AsyncClient, admin: Person, email: str) -> Response:
    return await client.post("/api/v1/users", json={"email": email, "full_name": "Somebody"}, headers=admin.headers)


async def move(client: AsyncClient, person: Person, email: str) -> Response:
    return await client.patch(f"/api/v1/users/{person.user.id}", json={"email": email}, headers=person.headers)


async def use_up(client: AsyncClient, admin: Person, email: str) -> None:
    """Have an address mailed by a tenant as often as it may."""
    for _ in range(FROM_TENANT.free):
        accepted(await invite(client, admin, email), 201)


async def mails_to(factory: Factory, email: str) -> int:
    ((number,),) = await factory.run("SELECT count(*) FROM mails WHERE recipient = :email", email=email)
    return int(number)


async def test_an_address_is_invited_so_often_and_then_not_for_an_hour(client: AsyncClient, factory: Factory) -> None:
    admin, email = await factory.person(), stranger()
    for _ in range(FROM_TENANT.free):
        accepted(await invite(client, admin, email), 201)
    answer = await invite(client, admin, email)
    refused(answer, 429, "mail_throttled")
    assert 0 < int(answer.headers["retry-after"]) <= 3600
    assert await mails_to(factory, email) == FROM_TENANT.free


async def test_a_mail_whose_transaction_was_lost_and_run_again_counts_once(client: AsyncClient, factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    admin, email = await factory.person(), stranger()
    calls = 0

    async def lose_twice_of_three(*arguments: Any, **values: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 3:
            raise TransactionConflict("lost against another transaction")
        return await post(*arguments, **values)

    monkeypatch.setattr("app.api.endpoints.invitations.post", lose_twice_of_three)
    await use_up(client, admin, email)
    refused(await invite(client, admin, email), 429, "mail_throttled")


async def test_all_calls_and_people_of_a_tenant_count_together(client: AsyncClient, factory: Factory) -> None:
    admin, email = await factory.person(), stranger()
    await use_up(client, admin, email)
    for person in (admin, await factory.person(admin.tenant)):
        for call in (invite, add, move):
            refused(await call(client, person, email), 429, "mail_throttled")
    assert await mails_to(factory, email) == FROM_TENANT.free
    assert await factory.run("SELECT 1 FROM users WHERE email = :email OR pending_email = :email", email=email) == []


@pytest.mark.parametrize("call", [invite, add, move])
async def test_another_tenant_cannot_have_ours_refused(client: AsyncClient, factory: Factory, call: Any) -> None:
    hostile, ours, email = await factory.person(), await factory.person(), stranger()
    await use_up(client, hostile, email)
    refused(await invite(client, hostile, email), 429, "mail_throttled")
    assert (await call(client, ours, email)).status_code in (200, 201)
    assert await mails_to(factory, email) == FROM_TENANT.free + 1


async def test_what_is_refused_for_another_reason_is_no_mail(client: AsyncClient, factory: Factory, services: Services) -> None:
    admin, email = await factory.person(), stranger()
    taken = await factory.user(admin.tenant, email=email)
    for _ in range(FROM_TENANT.free + 1):
        for call in (invite, add, move):
            refused(await call(client, admin, email), 409, "email_taken")
    await factory.run("DELETE FROM users WHERE id = :id", id=taken.id)
    await use_up(client, admin, email)


async def test_a_spy_learns_nothing_of_the_mail_that_others_send(client: AsyncClient, factory: Factory) -> None:
    """Whether others have sent none or all that they may, a tenant gets the same answers, call by call."""

    async def seen(email: str) -> list[tuple[int, list[str]]]:
        spy = await factory.person()
        answers = [await invite(client, spy, email) for _ in range(FROM_TENANT.free + 2)]
        return [(answer.status_code, sorted(answer.headers)) for answer in answers]

    untouched, mailed = stranger(), stranger()
    for _ in range(3):
        await use_up(client, await factory.person(), mailed)
    assert await seen(mailed) == await seen(untouched)


async def test_a_newcomer_is_mailed_a_link_whatever_others_sent_to_the_address(app: FastAPI, client: AsyncClient, factory: Factory) -> None:
    email = stranger()
    for _ in range(2):
        await use_up(client, await factory.person(), email)
    before = await mails_to(factory, email)
    newcomer = {"email": email, "password": PASSWORD, "full_name": "Somebody", "tenant_slug": f"t-{uuid4().hex[:12]}"}
    async with client_of(app) as other:
        accepted(await other.post(REGISTER, json=newcomer), 201)
    assert await mails_to(factory, email) == before + 1


async def test_a_user_has_so_many_mails_sent_and_then_none_for_an_hour(client: AsyncClient, factory: Factory, services: Services) -> None:
    admin, other = await factory.person(), await factory.person()
    for _ in range(FOR_SENDER.free):
        assert await services.throttle.take(f"mail from\0{admin.user.id}", FOR_SENDER)
    refused(await invite(client, admin, stranger()), 429, "mail_throttled")
    accepted(await invite(client, other, stranger()), 201)


async def test_taking_a_new_address_back_is_no_mail(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    await use_up(client, await factory.person(person.tenant), email := stranger())
    await factory.run("UPDATE users SET email = :email WHERE id = :id", email=email, id=person.user.id)
    accepted(await move(client, person, email))
