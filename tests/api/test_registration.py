"""Registration: founding a tenant, or joining one."""

import asyncio
from uuid import uuid4

import pytest
from httpx import AsyncClient, Response

from app.models import Role
from app.services import registration
from app.services.container import Services
from tests.api.answers import accepted, refused
from tests.api.world import newcomer
from tests.factories import PASSWORD, Factory

REGISTER = "/api/v1/auth/register"
LOGIN = "/api/v1/auth/login"


async def register_patiently(client: AsyncClient, body: dict[str, object]) -> Response:
    """Register, again where the service says that too many passwords are being hashed at this moment."""
    response = await client.post(REGISTER, json=body)
    return await register_patiently(client, body) if response.status_code == 503 else response


async def test_a_free_slug_makes_a_tenant_and_its_admin(client: AsyncClient, factory: Factory) -> None:
    asked = newcomer()
    answer = accepted(await client.post(REGISTER, json=asked), 201)
    assert (answer["email"], answer["full_name"], answer["role"], answer["is_active"]) == (asked["email"], asked["full_name"], "admin", True)
    assert (answer["tenant"]["slug"], answer["tenant"]["subdomain"], answer["tenant"]["name"]) == (
        asked["tenant_slug"],
        asked["tenant_slug"],
        asked["tenant_name"],
    )
    rows = await factory.run("SELECT subscription_tier, registration_policy, is_active FROM tenants WHERE slug = :slug", slug=asked["tenant_slug"])
    assert rows == [("free", "approval", True)]


async def test_a_founder_can_sign_in_and_work_at_once(client: AsyncClient) -> None:
    asked = newcomer()
    accepted(await client.post(REGISTER, json=asked), 201)
    signed_in = accepted(await client.post(LOGIN, json={name: asked[name] for name in ("email", "password", "tenant_slug")}))
    headers = {"Authorization": f"Bearer {signed_in['access_token']}", "X-Tenant-Slug": asked["tenant_slug"]}
    accepted(await client.post("/api/v1/projects", headers=headers, json={"name": "First"}), 201)


async def test_an_answer_to_a_registration_holds_no_password(client: AsyncClient) -> None:
    response = await client.post(REGISTER, json=newcomer())
    assert PASSWORD not in response.text
    assert "hash" not in response.text


async def test_a_tenant_without_a_name_is_named_after_its_slug(client: AsyncClient) -> None:
    asked = newcomer()
    del asked["tenant_name"]
    assert accepted(await client.post(REGISTER, json=asked), 201)["tenant"]["name"] == asked["tenant_slug"]


async def test_a_registration_that_fails_halfway_leaves_no_tenant(client: AsyncClient, factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(*_: object, **__: object) -> None:
        raise RuntimeError("the user cannot be written")

    monkeypatch.setattr(registration, "add_user", failing)
    asked = newcomer()
    assert (await client.post(REGISTER, json=asked)).status_code == 500
    assert await factory.run("SELECT 1 FROM tenants WHERE slug = :slug", slug=asked["tenant_slug"]) == []


async def test_a_slug_is_compared_in_lower_case(client: AsyncClient, factory: Factory) -> None:
    tenant = await factory.tenant(registration_policy="open")
    answer = accepted(await client.post(REGISTER, json=newcomer(tenant_slug=tenant.slug.upper())), 201)
    assert answer["tenant"]["id"] == str(tenant.id)
    assert answer["role"] == "viewer"


async def test_under_approval_a_newcomer_is_a_viewer_who_waits(client: AsyncClient, factory: Factory) -> None:
    tenant = await factory.tenant(registration_policy="approval")
    asked = newcomer(tenant_slug=tenant.slug)
    answer = accepted(await client.post(REGISTER, json=asked), 201)
    assert (answer["role"], answer["is_active"]) == ("viewer", False)
    refused(await client.post(LOGIN, json={name: asked[name] for name in ("email", "password", "tenant_slug")}), 403, "account_inactive")


async def test_whoever_waits_is_let_in_by_an_admin(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    asked = newcomer(tenant_slug=admin.tenant.slug)
    user_id = accepted(await client.post(REGISTER, json=asked), 201)["id"]
    accepted(await client.patch(f"/api/v1/users/{user_id}", headers=admin.headers, json={"is_active": True}))
    accepted(await client.post(LOGIN, json={name: asked[name] for name in ("email", "password", "tenant_slug")}))


async def test_under_open_a_newcomer_is_an_active_viewer(client: AsyncClient, factory: Factory) -> None:
    tenant = await factory.tenant(registration_policy="open")
    asked = newcomer(tenant_slug=tenant.slug)
    answer = accepted(await client.post(REGISTER, json=asked), 201)
    assert (answer["role"], answer["is_active"]) == ("viewer", True)
    accepted(await client.post(LOGIN, json={name: asked[name] for name in ("email", "password", "tenant_slug")}))


async def test_under_invite_only_nobody_joins(client: AsyncClient, factory: Factory) -> None:
    tenant = await factory.tenant(registration_policy="invite_only")
    refused(await client.post(REGISTER, json=newcomer(tenant_slug=tenant.slug)), 403, "registration_closed")
    assert await factory.run("SELECT 1 FROM users WHERE tenant_id = :id", id=tenant.id) == []


async def test_a_suspended_tenant_takes_nobody(client: AsyncClient, factory: Factory) -> None:
    tenant = await factory.tenant(registration_policy="open", is_active=False)
    refused(await client.post(REGISTER, json=newcomer(tenant_slug=tenant.slug)), 403, "tenant_inactive")


@pytest.mark.parametrize(
    ("change", "status", "code"), [("registration_policy = 'invite_only'", 403, "registration_closed"), ("is_active = false", 403, "tenant_inactive")]
)
async def test_a_tenant_that_is_closed_while_the_password_is_hashed_takes_nobody(
    client: AsyncClient, factory: Factory, services: Services, monkeypatch: pytest.MonkeyPatch, change: str, status: int, code: str
) -> None:
    tenant = await factory.tenant(registration_policy="open")
    hash_password = services.passwords.hash

    async def close_and_hash(password: str) -> str:
        await factory.run(f"UPDATE tenants SET {change} WHERE id = :id", id=tenant.id)
        return await hash_password(password)

    monkeypatch.setattr(services.passwords, "hash", close_and_hash)
    refused(await client.post(REGISTER, json=newcomer(tenant_slug=tenant.slug)), status, code)
    assert await factory.run("SELECT count(*) FROM users WHERE tenant_id = :id", id=tenant.id) == [(0,)]


async def test_joining_changes_nothing_of_the_tenant(client: AsyncClient, factory: Factory) -> None:
    tenant = await factory.tenant(registration_policy="open")
    accepted(await client.post(REGISTER, json=newcomer(tenant_slug=tenant.slug, tenant_name="Mine now")), 201)
    assert await factory.run("SELECT name FROM tenants WHERE id = :id", id=tenant.id) == [(tenant.name,)]


@pytest.mark.parametrize("rewrite", [str, str.upper, lambda email: f" {email} "], ids=["as it is", "upper case", "with spaces"])
async def test_an_address_registers_once_in_a_tenant(client: AsyncClient, factory: Factory, rewrite: type[str]) -> None:
    tenant = await factory.tenant(registration_policy="open")
    user = await factory.user(tenant)
    refused(await client.post(REGISTER, json=newcomer(tenant_slug=tenant.slug, email=rewrite(user.email))), 409, "email_taken")


async def test_the_same_address_registers_in_two_tenants(client: AsyncClient) -> None:
    first = newcomer()
    accepted(await client.post(REGISTER, json=first), 201)
    accepted(await client.post(REGISTER, json=newcomer(email=first["email"])), 201)


@pytest.mark.parametrize("slug", ["www", "api", "admin", "app", "auth", "docs", "status", "mail", "Admin"])
async def test_a_reserved_slug_is_refused(client: AsyncClient, slug: str) -> None:
    refused(await client.post(REGISTER, json=newcomer(tenant_slug=slug)), 422, "validation_error")


@pytest.mark.parametrize(
    "slug", ["", "a", "ab", "-acme", "acme-", "ac me", "acme_1", "äcme", "acme.example", "a" * 64, "acme\n1", "acme/1", "xn--acme", "ac\u0000me"]
)
async def test_a_malformed_slug_is_refused(client: AsyncClient, slug: str) -> None:
    response = await client.post(REGISTER, json=newcomer(tenant_slug=slug))
    assert response.status_code == 422, response.text
    assert response.json()["code"] == "validation_error"


@pytest.mark.parametrize("length", [3, 63])
async def test_the_shortest_and_the_longest_slug_are_accepted(client: AsyncClient, length: int) -> None:
    accepted(await client.post(REGISTER, json=newcomer(tenant_slug=uuid4().hex[:length].ljust(length, "x"))), 201)


async def test_the_subdomain_of_another_tenant_is_no_free_slug(client: AsyncClient, factory: Factory) -> None:
    name = f"sub-{uuid4().hex[:16]}"
    await factory.tenant(subdomain=name)
    refused(await client.post(REGISTER, json=newcomer(tenant_slug=name)), 409, "slug_taken")
    assert await factory.run("SELECT 1 FROM tenants WHERE slug = :slug", slug=name) == []


async def test_of_twenty_who_found_the_same_tenant_at_once_one_is_its_admin(client: AsyncClient, factory: Factory) -> None:
    slug = f"race-{uuid4().hex[:16]}"
    answers = await asyncio.gather(*(register_patiently(client, newcomer(tenant_slug=slug)) for _ in range(20)))
    assert [response.status_code for response in answers] == [201] * 20
    rows = await factory.run("SELECT role, u.is_active FROM users u JOIN tenants t ON t.id = u.tenant_id WHERE slug = :slug", slug=slug)
    assert sorted(rows) == [(Role.ADMIN, True)] + [(Role.VIEWER, False)] * 19


async def test_of_ten_registrations_of_one_address_at_once_one_succeeds(client: AsyncClient, factory: Factory) -> None:
    asked = newcomer()
    answers = await asyncio.gather(*(register_patiently(client, asked) for _ in range(10)))
    assert sorted(response.status_code for response in answers) == [201] + [409] * 9
    rows = await factory.run("SELECT role FROM users u JOIN tenants t ON t.id = u.tenant_id WHERE slug = :slug", slug=asked["tenant_slug"])
    assert rows == [(Role.ADMIN,)]


async def test_a_slug_and_a_subdomain_that_are_taken_at_once_do_not_become_two_tenants(client: AsyncClient, factory: Factory) -> None:
    admins = [await factory.person() for _ in range(4)]
    for admin in admins:
        name = f"name-{uuid4().hex[:16]}"
        founded, renamed = await asyncio.gather(
            register_patiently(client, newcomer(tenant_slug=name)),
            client.patch("/api/v1/tenant", headers=admin.headers, json={"subdomain": name}),
        )
        assert sorted((founded.status_code == 201, renamed.status_code == 200)) == [False, True], (founded.text, renamed.text)
