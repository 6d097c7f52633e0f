"""Who the caller is, and what the caller may do."""

import pytest
from httpx import AsyncClient

from app.models import Role
from tests.api.answers import accepted, refused
from tests.factories import Factory

ME = "/api/v1/auth/me"

VIEWERS = {"projects:read", "resources:read", "tenant:read", "users:read", "users:update-self"}
MEMBERS = VIEWERS | {"projects:create", "projects:delete-own", "projects:update", "resources:create", "resources:delete", "resources:update"}
ADMINS = MEMBERS | {
    "projects:delete",
    "projects:read-deleted",
    "projects:restore",
    "projects:set-owner",
    "tenant:update",
    "users:create",
    "users:delete",
    "users:invite",
    "users:update",
}


@pytest.mark.parametrize(("role", "permissions"), [(Role.VIEWER, VIEWERS), (Role.MEMBER, MEMBERS), (Role.ADMIN, ADMINS)])
async def test_me_shows_what_the_role_may_do(client: AsyncClient, factory: Factory, role: Role, permissions: set[str]) -> None:
    person = await factory.person(role=role)
    answer = accepted(await client.get(ME, headers=person.headers))
    assert set(answer["permissions"]) == permissions
    assert answer["user"]["role"] == role


async def test_me_shows_the_caller_and_the_tenant_as_the_other_calls_do(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    answer = accepted(await client.get(ME, headers=person.headers))
    assert answer["user"] == accepted(await client.get(f"/api/v1/users/{person.user.id}", headers=person.headers))
    assert answer["tenant"] == accepted(await client.get("/api/v1/tenant", headers=person.headers))


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Token abc"])
async def test_without_a_bearer_token_nobody_is_known(client: AsyncClient, factory: Factory, authorization: str | None) -> None:
    headers = {"X-Tenant-Slug": (await factory.tenant()).slug} | ({} if authorization is None else {"Authorization": authorization})
    response = await client.get(ME, headers=headers)
    refused(response, 401, "not_authenticated")
    assert response.headers["www-authenticate"] == "Bearer"
