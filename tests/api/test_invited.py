"""Registration by invitation: good once, for seven days, for the invited address, in the invitation's tenant and role."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from httpx import AsyncClient

from app.core.derived_tokens import TokenKind, TokenName
from app.models import Invitation, Role, Tenant, new_id
from tests.api.answers import accepted, refused
from tests.api.test_registration import register_patiently
from tests.api.world import newcomer
from tests.factories import Factory

REGISTER = "/api/v1/auth/register"
LOGIN = "/api/v1/auth/login"


def answer_to(tenant: Tenant, invitation: Invitation, token: str, **changes: Any) -> dict[str, Any]:
    """Return a registration with an invitation, that is right unless `changes` say otherwise."""
    return newcomer(**{"tenant_slug": tenant.slug, "email": invitation.email, "invitation_token": token, **changes})


async def refuse_invitation(client: AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    document = refused(await client.post(REGISTER, json=body), 403, "invitation_invalid")
    return {name: value for name, value in document.items() if name != "request_id"}


async def people_of(factory: Factory, tenant: Tenant) -> list[str]:
    return [row[0] for row in await factory.run("SELECT email FROM users WHERE tenant_id = :id", id=tenant.id)]


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("policy", ["approval", "open", "invite_only"])
async def test_an_invitation_overrides_the_policy_and_gives_its_role(client: AsyncClient, factory: Factory, policy: str, role: Role) -> None:
    tenant = await factory.tenant(registration_policy=policy)
    invitation, token = await factory.invitation(tenant, role=role)
    answer = accepted(await client.post(REGISTER, json=answer_to(tenant, invitation, token)), 201)
    assert (answer["role"], answer["is_active"], answer["email_verified"]) == (role, True, True)
    assert (answer["email"], answer["tenant"]["id"]) == (invitation.email, str(tenant.id))


async def test_whoever_was_invited_can_sign_in_at_once(client: AsyncClient, factory: Factory) -> None:
    tenant = await factory.tenant(registration_policy="invite_only")
    invitation, token = await factory.invitation(tenant)
    asked = answer_to(tenant, invitation, token)
    accepted(await client.post(REGISTER, json=asked), 201)
    accepted(await client.post(LOGIN, json={name: asked[name] for name in ("email", "password", "tenant_slug")}))


async def test_the_mailed_token_of_a_made_invitation_registers(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    body = {"email": f"{uuid4().hex}@example.com", "role": "member"}
    made = accepted(await client.post("/api/v1/users/invitations", headers=admin.headers, json=body), 201)
    ((row_id, stored),) = await factory.run("SELECT id, token_hash FROM invitations WHERE tenant_id = :id", id=admin.tenant.id)
    token = factory.derived_tokens.again(TokenKind.INVITATION, TokenName(admin.tenant.id, row_id), stored)
    assert str(row_id) == made["id"]
    registration = newcomer(tenant_slug=admin.tenant.slug, email=body["email"].upper(), invitation_token=token)
    assert accepted(await client.post(REGISTER, json=registration), 201)["role"] == "member"
    assert accepted(await client.get("/api/v1/users/invitations", headers=admin.headers))["items"] == []


async def test_an_invitation_is_good_once(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    invitation, token = await factory.invitation(admin.tenant)
    user = accepted(await client.post(REGISTER, json=answer_to(admin.tenant, invitation, token)), 201)
    await refuse_invitation(client, answer_to(admin.tenant, invitation, token))
    accepted(await client.delete(f"/api/v1/users/{user['id']}", headers=admin.headers), 204)
    await refuse_invitation(client, answer_to(admin.tenant, invitation, token))


async def test_of_ten_registrations_with_one_invitation_at_once_one_succeeds(client: AsyncClient, factory: Factory) -> None:
    tenant = await factory.tenant(registration_policy="invite_only")
    invitation, token = await factory.invitation(tenant)
    answers = await asyncio.gather(*(register_patiently(client, answer_to(tenant, invitation, token)) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [201] + [403] * 9
    assert {answer.json()["code"] for answer in answers if answer.status_code == 403} == {"invitation_invalid"}
    assert await people_of(factory, tenant) == [invitation.email]


async def test_an_invitation_is_for_its_address_alone(client: AsyncClient, factory: Factory) -> None:
    tenant = await factory.tenant(registration_policy="open")
    invitation, token = await factory.invitation(tenant, role=Role.ADMIN)
    other, _ = await factory.invitation(tenant)
    for email in (f"{uuid4().hex}@example.com", f"x{invitation.email}", invitation.email.replace("@", "+1@"), other.email):
        await refuse_invitation(client, answer_to(tenant, invitation, token, email=email))
    assert await people_of(factory, tenant) == []
    accepted(await client.post(REGISTER, json=answer_to(tenant, invitation, token)), 201)


async def test_an_expired_invitation_is_refused(client: AsyncClient, factory: Factory) -> None:
    tenant = await factory.tenant()
    invitation, token = await factory.invitation(tenant, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    await refuse_invitation(client, answer_to(tenant, invitation, token))


@pytest.mark.parametrize("end", ["withdrawn", "replaced"])
async def test_the_link_of_an_invitation_that_is_no_more_is_refused(client: AsyncClient, factory: Factory, end: str) -> None:
    admin = await factory.person()
    invitation, token = await factory.invitation(admin.tenant)
    path = "/api/v1/users/invitations"
    if end == "withdrawn":
        accepted(await client.delete(f"{path}/{invitation.id}", headers=admin.headers), 204)
    else:
        accepted(await client.post(path, headers=admin.headers, json={"email": invitation.email, "role": "admin"}), 201)
    await refuse_invitation(client, answer_to(admin.tenant, invitation, token))


async def test_an_invitation_of_another_tenant_is_refused(client: AsyncClient, factory: Factory) -> None:
    tenant, foreign = await factory.tenant(registration_policy="open"), await factory.tenant()
    invitation, token = await factory.invitation(foreign, role=Role.ADMIN)
    await factory.invitation(tenant, email=invitation.email)
    await refuse_invitation(client, answer_to(tenant, invitation, token))
    assert await people_of(factory, tenant) + await people_of(factory, foreign) == []
    accepted(await client.post(REGISTER, json=answer_to(foreign, invitation, token)), 201)


async def test_a_token_of_our_making_without_an_invitation_is_refused(client: AsyncClient, factory: Factory) -> None:
    """Tokens of other kinds, even about the very row, and of rows that never were."""
    tenant = await factory.tenant()
    invitation, token = await factory.invitation(tenant)
    tokens = factory.derived_tokens
    own = TokenName(tenant.id, invitation.id)
    wrong = [
        tokens.make(TokenKind.MAILED, own),
        tokens.make(TokenKind.REFRESH, own),
        tokens.make(TokenKind.INVITATION, own._replace(number=1)),
        tokens.make(TokenKind.INVITATION, TokenName(tenant.id, new_id())),
    ]
    for other in wrong:
        await refuse_invitation(client, answer_to(tenant, invitation, other))
    accepted(await client.post(REGISTER, json=answer_to(tenant, invitation, token)), 201)


@pytest.mark.parametrize("token", ["", " ", "x", "null", "A" * 91, "é" * 50, "../..", "' OR 1=1 --", "A" * 200])
async def test_garbage_is_refused_as_an_invitation(client: AsyncClient, factory: Factory, token: str) -> None:
    tenant = await factory.tenant(registration_policy="open")
    await refuse_invitation(client, newcomer(tenant_slug=tenant.slug, invitation_token=token))
    assert await people_of(factory, tenant) == []


async def test_all_that_can_be_wrong_with_an_invitation_is_answered_alike(client: AsyncClient, factory: Factory) -> None:
    tenant, foreign = await factory.tenant(), await factory.tenant()
    invitation, token = await factory.invitation(tenant)
    expired, expired_token = await factory.invitation(tenant, expires_at=datetime.now(UTC))
    elsewhere, foreign_token = await factory.invitation(foreign)
    answers = [
        await refuse_invitation(client, answer_to(tenant, invitation, "x")),
        await refuse_invitation(client, answer_to(tenant, invitation, token, email="other@example.com")),
        await refuse_invitation(client, answer_to(tenant, expired, expired_token)),
        await refuse_invitation(client, answer_to(tenant, elsewhere, foreign_token)),
        await refuse_invitation(client, answer_to(tenant, invitation, token, tenant_slug="t-that-nobody-has")),
    ]
    assert [answer == answers[0] for answer in answers] == [True] * len(answers)


async def test_an_invitation_founds_no_tenant(client: AsyncClient, factory: Factory) -> None:
    invitation, token = await factory.invitation(await factory.tenant())
    asked = newcomer(email=invitation.email, invitation_token=token)
    await refuse_invitation(client, asked)
    assert await factory.run("SELECT 1 FROM tenants WHERE slug = :slug", slug=asked["tenant_slug"]) == []


async def test_a_suspended_tenant_takes_no_invited_person(client: AsyncClient, factory: Factory) -> None:
    tenant = await factory.tenant(is_active=False)
    invitation, token = await factory.invitation(tenant)
    refused(await client.post(REGISTER, json=answer_to(tenant, invitation, token)), 403, "tenant_inactive")


async def test_a_registration_that_is_refused_leaves_the_invitation_open(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    invitation, token = await factory.invitation(admin.tenant)
    squatter = await factory.user(admin.tenant, email=invitation.email)
    refused(await client.post(REGISTER, json=answer_to(admin.tenant, invitation, token)), 409, "email_taken")
    refused(await client.post(REGISTER, json=answer_to(admin.tenant, invitation, token, password="password")), 422, "weak_password")
    await factory.run("DELETE FROM users WHERE id = :id", id=squatter.id)
    accepted(await client.post(REGISTER, json=answer_to(admin.tenant, invitation, token)), 201)


async def test_no_invitation_is_as_good_as_null(client: AsyncClient, factory: Factory) -> None:
    tenant = await factory.tenant(registration_policy="open")
    assert accepted(await client.post(REGISTER, json=newcomer(tenant_slug=tenant.slug, invitation_token=None)), 201)["role"] == "viewer"


@pytest.mark.parametrize("token", [7, [], {}, True, "x" * 201, "a\0b", "\ud800"])
async def test_what_is_no_token_at_all_is_refused(client: AsyncClient, token: Any) -> None:
    asked = newcomer(invitation_token=token)
    response = await client.post(REGISTER, content=json.dumps(asked), headers={"Content-Type": "application/json"})
    refused(response, 422, "validation_error")
