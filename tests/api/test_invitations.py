"""Invitations: made, listed, replaced and withdrawn by admins. tests/api/test_invited.py has what can be done with one."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from httpx import AsyncClient

from app.core.derived_tokens import TokenKind, TokenName, token_hash
from app.models import MailTemplate, Tenant
from tests.api.answers import accepted, refused
from tests.api.concurrency import statement_not_yet_committed
from tests.api.mails import Asked, mails_of
from tests.factories import Factory, Person

INVITATIONS = "/api/v1/users/invitations"
FIELDS = {"id", "email", "role", "invited_by", "created_at", "expires_at"}


def an_invitation(**changes: Any) -> dict[str, Any]:
    return {"email": f"{uuid4().hex[:12]}@example.com", "role": "member", **changes}


async def invited(client: AsyncClient, admin: Person, **changes: Any) -> dict[str, Any]:
    answer: dict[str, Any] = accepted(await client.post(INVITATIONS, headers=admin.headers, json=an_invitation(**changes)), 201)
    return answer


async def listed(client: AsyncClient, admin: Person, **parameters: str) -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = accepted(await client.get(INVITATIONS, headers=admin.headers, params=parameters))["items"]
    return answer


async def emails_in(factory: Factory, tenant: Tenant) -> set[str]:
    return {row[0] for row in await factory.run("SELECT email FROM invitations WHERE tenant_id = :id", id=tenant.id)}


async def test_an_invitation_is_answered_and_listed_alike(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    asked = an_invitation(role="viewer")
    response = await client.post(INVITATIONS, headers=admin.headers, json=asked)
    answer = accepted(response, 201)
    assert answer.keys() == FIELDS
    assert (answer["email"], answer["role"], answer["invited_by"]) == (asked["email"], "viewer", str(admin.user.id))
    assert response.headers["location"] == f"{INVITATIONS}/{answer['id']}"
    assert await listed(client, admin) == [answer]


async def test_an_invitation_is_good_for_seven_days(client: AsyncClient, factory: Factory) -> None:
    answer = await invited(client, await factory.person())
    created, expires = (datetime.fromisoformat(answer[name]) for name in ("created_at", "expires_at"))
    assert expires - created == timedelta(days=7)
    assert abs(created - datetime.now(UTC)) < timedelta(minutes=1)


async def test_a_link_is_mailed_to_the_invited_address(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    answer = await invited(client, admin)
    ((mail),) = await mails_of(factory, admin.tenant)
    assert mail == Asked(MailTemplate.INVITATION, answer["email"], mail.subject_id, {}, has_job=True)
    assert str(mail.subject_id) == answer["id"]


async def test_the_token_is_stored_and_answered_nowhere_and_yet_can_be_made_again(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    made = await client.post(INVITATIONS, headers=admin.headers, json=an_invitation())
    ((row_id, stored),) = await factory.run("SELECT id, token_hash FROM invitations WHERE tenant_id = :id", id=admin.tenant.id)
    token = factory.derived_tokens.again(TokenKind.INVITATION, TokenName(admin.tenant.id, row_id), stored)
    assert token is not None
    stored_rows = "SELECT i::text FROM invitations i UNION ALL SELECT m::text FROM mails m UNION ALL SELECT convert_from(payload, 'UTF8') FROM jobs.pgqueuer"
    everything = made.text + str(made.headers) + str(await listed(client, admin)) + str(await factory.run(stored_rows))
    assert token not in everything
    assert stored.hex() not in made.text


async def test_an_address_is_kept_as_registration_keeps_it(client: AsyncClient, factory: Factory) -> None:
    assert (await invited(client, await factory.person(), email="  New.Person@EXAMPLE.com "))["email"] == "new.person@example.com"


@pytest.mark.parametrize(
    "body",
    [
        *(an_invitation(email=email) for email in ("", "ada", "ada@", "@example.com", "a\0@example.com", None, 7)),
        *(an_invitation(role=role) for role in ("owner", "Admin", "", None, 1)),
        *(an_invitation(**{name: "x"}) for name in ("id", "token", "tenant_id", "invited_by", "expires_at")),
        {"email": "a@example.com"},
        {"role": "admin"},
    ],
)
async def test_an_invitation_that_is_not_right_is_refused(client: AsyncClient, factory: Factory, body: dict[str, Any]) -> None:
    admin = await factory.person()
    refused(await client.post(INVITATIONS, headers=admin.headers, json=body), 422, "validation_error")
    assert await mails_of(factory, admin.tenant) == []


async def test_an_address_that_is_a_user_already_is_not_invited(client: AsyncClient, factory: Factory) -> None:
    admin, elsewhere = await factory.person(), await factory.person()
    user = await factory.user(admin.tenant, is_active=False)
    refused(await client.post(INVITATIONS, headers=admin.headers, json=an_invitation(email=user.email.upper())), 409, "email_taken")
    assert await mails_of(factory, admin.tenant) == []
    await invited(client, admin, email=elsewhere.user.email)


async def test_inviting_again_replaces_the_invitation(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    first = await invited(client, admin, role="admin")
    ((hash_before,),) = await factory.run("SELECT token_hash FROM invitations WHERE tenant_id = :id", id=admin.tenant.id)
    other = await factory.person(admin.tenant)
    second = await invited(client, other, email=first["email"], role="viewer")
    ((hash_after,),) = await factory.run("SELECT token_hash FROM invitations WHERE tenant_id = :id", id=admin.tenant.id)
    assert second["id"] != first["id"]
    assert (second["role"], second["invited_by"]) == ("viewer", str(other.user.id))
    assert second["created_at"] > first["created_at"]
    assert hash_after != hash_before
    assert await listed(client, admin) == [second]


async def test_of_ten_invitations_of_one_address_at_once_one_is_open(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    body = an_invitation()
    answers = await asyncio.gather(*(client.post(INVITATIONS, headers=admin.headers, json=body) for _ in range(10)))
    made = {accepted(answer, 201)["id"] for answer in answers}
    assert len(made) == 10
    ((open_id, stored),) = await factory.run("SELECT id, token_hash FROM invitations WHERE tenant_id = :id", id=admin.tenant.id)
    assert str(open_id) in made
    token = factory.derived_tokens.make(TokenKind.INVITATION, TokenName(admin.tenant.id, open_id))
    assert token_hash(token) == stored, "the row has the token of its own identifier"


async def test_an_address_that_registers_meanwhile_is_not_invited_again(client: AsyncClient, factory: Factory, database_urls: tuple[str, str]) -> None:
    admin = await factory.person()
    invitation, _ = await factory.invitation(admin.tenant)
    registration = """
        WITH used AS (DELETE FROM invitations WHERE tenant_id = $1 AND id = $2 RETURNING tenant_id, email)
        INSERT INTO users (tenant_id, id, email, full_name, role) SELECT tenant_id, gen_random_uuid(), email, 'New Person', 'member' FROM used"""
    async with statement_not_yet_committed(database_urls[0], registration, admin.tenant.id, invitation.id) as registering:
        response = await registering.commit_while(client.post(INVITATIONS, headers=admin.headers, json=an_invitation(email=invitation.email)))
    refused(response, 409, "email_taken")
    assert await emails_in(factory, admin.tenant) == set()


async def test_an_invitation_that_has_expired_does_not_show_and_does_not_block(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    past = datetime.now(UTC) - timedelta(seconds=1)
    expired, _ = await factory.invitation(admin.tenant, expires_at=past)
    assert await listed(client, admin) == []
    assert accepted(await client.get(INVITATIONS, headers=admin.headers, params={"with_total": "true"}))["total"] == 0
    refused(await client.delete(f"{INVITATIONS}/{expired.id}", headers=admin.headers), 404, "not_found")
    again = await invited(client, admin, email=expired.email)
    assert await listed(client, admin) == [again]


async def test_invitations_are_filtered_by_role_and_searched_by_address(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    ada = await invited(client, admin, email="ada_lovelace@example.org", role="admin")
    bob = await invited(client, admin, email="bob@example.org", role="viewer")
    assert await listed(client, admin, role="admin") == [ada]
    assert await listed(client, admin, q="A_LOVE") == [ada]
    assert await listed(client, admin, q="a-love") == []
    assert await listed(client, admin, role="admin", q="bob") == []
    assert await listed(client, admin, sort="email") == [ada, bob]


async def test_a_withdrawn_invitation_is_gone(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    kept, withdrawn = await invited(client, admin), await invited(client, admin)
    path = f"{INVITATIONS}/{withdrawn['id']}"
    accepted(await client.delete(path, headers=admin.headers), 204)
    assert await listed(client, admin) == [kept]
    refused(await client.delete(path, headers=admin.headers), 404, "not_found")


@pytest.mark.parametrize("identifier", ["1", "x" * 36, "", "%00", "me"])
async def test_a_malformed_identifier_is_refused(client: AsyncClient, factory: Factory, identifier: str) -> None:
    admin = await factory.person()
    response = await client.delete(f"{INVITATIONS}/{identifier}", headers=admin.headers)
    assert response.status_code in (404, 405, 422)
    assert response.headers["content-type"] == "application/problem+json"


async def test_invitations_of_a_deleted_user_stay_without_an_inviter(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    other = await factory.person(admin.tenant)
    invitation = await invited(client, other)
    accepted(await client.delete(f"/api/v1/users/{other.user.id}", headers=admin.headers), 204)
    assert await listed(client, admin) == [{**invitation, "invited_by": None}]


async def test_whoever_is_deleted_does_not_come_back_by_an_invitation(client: AsyncClient, factory: Factory) -> None:
    """An invitation and a user of the same address: invited first, and then added by another admin."""
    admin = await factory.person()
    invitation = await invited(client, admin, role="admin")
    bystander = await invited(client, admin)
    user = await factory.user(admin.tenant, email=invitation["email"])
    accepted(await client.delete(f"/api/v1/users/{user.id}", headers=admin.headers), 204)
    assert await emails_in(factory, admin.tenant) == {bystander["email"]}


async def test_an_admin_who_invites_and_is_deleted_at_once_leaves_no_dangling_invitation(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    for _ in range(5):
        other = await factory.person(admin.tenant)
        inviting = [client.post(INVITATIONS, headers=other.headers, json=an_invitation()) for _ in range(4)]
        deleted, *made = await asyncio.gather(client.delete(f"/api/v1/users/{other.user.id}", headers=admin.headers), *inviting)
        assert deleted.status_code == 204, deleted.text
        assert {answer.status_code for answer in made} <= {201, 401, 409}, [answer.text for answer in made]
    rows = await factory.run("SELECT DISTINCT invited_by FROM invitations WHERE tenant_id = :id", id=admin.tenant.id)
    assert {row[0] for row in rows} <= {None}
