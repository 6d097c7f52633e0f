"""The caller's tenant."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from httpx import AsyncClient

from tests.api.answers import accepted, refused
from tests.api.concurrency import statement_not_yet_committed
from tests.api.world import newcomer
from tests.factories import Factory

TENANT = "/api/v1/tenant"
FIELDS = {
    *("id", "slug", "subdomain", "name", "is_active", "subscription_tier", "rate_limit_per_minute", "rate_limit_burst"),
    *("registration_policy", "created_at"),
}


async def test_a_tenant_has_these_fields_and_no_others(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person(await factory.tenant(subscription_tier="premium"))
    shown = accepted(await client.get(TENANT, headers=person.headers))
    assert shown.keys() == FIELDS
    assert (shown["id"], shown["slug"], shown["name"]) == (str(person.tenant.id), person.tenant.slug, person.tenant.name)
    assert (shown["subscription_tier"], shown["is_active"], shown["registration_policy"]) == ("premium", True, "approval")


async def test_an_admin_changes_name_subdomain_and_policy(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    change = {"name": "Globex", "subdomain": f"globex-{uuid4().hex[:12]}", "registration_policy": "invite_only"}
    changed = accepted(await client.patch(TENANT, headers=admin.headers, json=change))
    assert {name: changed[name] for name in change} == change
    assert changed == accepted(await client.get(TENANT, headers=admin.headers))


@pytest.mark.parametrize("field", ["id", "slug", "is_active", "subscription_tier", "rate_limit_per_minute", "rate_limit_burst", "created_at"])
async def test_what_is_the_operator_s_to_change_is_refused(client: AsyncClient, factory: Factory, field: str) -> None:
    admin = await factory.person()
    before = accepted(await client.get(TENANT, headers=admin.headers))
    refused(await client.patch(TENANT, headers=admin.headers, json={field: before[field]}), 422, "validation_error")


async def test_an_empty_change_changes_nothing(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    before = await factory.run("SELECT * FROM tenants WHERE id = :id", id=admin.tenant.id)
    same = {"name": admin.tenant.name, "subdomain": admin.tenant.subdomain, "registration_policy": "approval"}
    for change in ({}, same):
        accepted(await client.patch(TENANT, headers=admin.headers, json=change))
        assert await factory.run("SELECT * FROM tenants WHERE id = :id", id=admin.tenant.id) == before


@pytest.mark.parametrize(
    "change",
    [
        *({"name": None}, {"name": ""}, {"name": "x" * 201}, {"registration_policy": None}, {"registration_policy": "closed"}),
        *({"subdomain": name} for name in ("", "a", "-ab", "a.b", "www", "API", "x" * 64, "a_b", "äbc", "abc\ndef", 7)),
    ],
)
async def test_a_change_that_is_not_right_is_refused(client: AsyncClient, factory: Factory, change: dict[str, Any]) -> None:
    admin = await factory.person()
    refused(await client.patch(TENANT, headers=admin.headers, json=change), 422, "validation_error")


async def test_a_subdomain_is_kept_in_lower_case(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    name = f"Globex-{uuid4().hex[:12]}"
    assert accepted(await client.patch(TENANT, headers=admin.headers, json={"subdomain": name}))["subdomain"] == name.lower()


async def test_a_subdomain_of_another_tenant_is_taken(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    other = await factory.tenant(subdomain=f"sub-{uuid4().hex[:12]}")
    refused(await client.patch(TENANT, headers=admin.headers, json={"subdomain": other.subdomain}), 409, "subdomain_taken")


async def test_the_slug_of_another_tenant_is_no_subdomain(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    other = await factory.tenant(subdomain=f"sub-{uuid4().hex[:12]}")
    refused(await client.patch(TENANT, headers=admin.headers, json={"subdomain": other.slug}), 409, "subdomain_taken")


async def test_a_tenant_s_own_slug_is_its_subdomain_again(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person(await factory.tenant(subdomain=f"sub-{uuid4().hex[:12]}"))
    accepted(await client.patch(TENANT, headers=admin.headers, json={"subdomain": admin.tenant.slug}))


async def test_a_tenant_may_have_no_subdomain(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    assert accepted(await client.patch(TENANT, headers=admin.headers, json={"subdomain": None}))["subdomain"] is None


async def test_of_many_who_take_one_subdomain_at_once_one_gets_it(client: AsyncClient, factory: Factory) -> None:
    admins = [await factory.person() for _ in range(6)]
    name = f"race-{uuid4().hex[:12]}"
    answers = await asyncio.gather(*(client.patch(TENANT, headers=admin.headers, json={"subdomain": name}) for admin in admins))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 5


@pytest.mark.parametrize("held_by", ["a change of the tenant: FOR UPDATE", "any other write of the tenant: FOR KEY SHARE"])
async def test_a_tenant_that_waits_for_itself_keeps_nobody_from_founding_another(
    client: AsyncClient, factory: Factory, database_urls: tuple[str, str], held_by: str
) -> None:
    admin = await factory.person()
    own_row = "SELECT FROM tenants WHERE id = $1 " + held_by.partition(": ")[2]
    async with statement_not_yet_committed(database_urls[0], own_row, admin.tenant.id) as held:
        waiting = await held.begin(client.patch(TENANT, headers=admin.headers, json={"subdomain": f"s-{uuid4().hex[:12]}"}))
        accepted(await client.post("/api/v1/auth/register", json=newcomer()), 201)
        assert not waiting.done()
        accepted(await held.commit_while(waiting))
