"""Which tenant a request belongs to."""

from uuid import uuid4

import pytest
from httpx import AsyncClient

from tests.api.answers import accepted, refused
from tests.api.world import client_with
from tests.factories import PASSWORD, Factory, Person

TENANT = "/api/v1/tenant"


async def tenant_of(client: AsyncClient, person: Person, headers: dict[str, str]) -> str:
    """Return the identifier of the tenant that the service sees in these headers."""
    answer = accepted(await client.get(TENANT, headers={"Authorization": f"Bearer {person.token}", **headers}))
    found: str = answer["id"]
    return found


async def a_person_whose_subdomain_is_not_the_slug(factory: Factory) -> Person:
    return await factory.person(await factory.tenant(subdomain=f"sub-{uuid4().hex[:16]}"))


async def test_the_slug_in_a_header_names_the_tenant(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    assert await tenant_of(client, person, {"X-Tenant-Slug": person.tenant.slug}) == str(person.tenant.id)


@pytest.mark.parametrize("rewrite", [str.upper, str.title, lambda slug: f"  {slug}\t"], ids=["upper", "title", "spaces"])
async def test_a_slug_is_compared_in_lower_case(client: AsyncClient, factory: Factory, rewrite: type[str]) -> None:
    person = await factory.person()
    assert await tenant_of(client, person, {"X-Tenant-Slug": rewrite(person.tenant.slug)}) == str(person.tenant.id)


@pytest.mark.parametrize("form", ["{}.localhost", "{}.localhost:8000", "{}.LOCALHOST", "{}.localhost.", "{}.localhost.:8000"])
async def test_the_subdomain_names_the_tenant(client: AsyncClient, factory: Factory, form: str) -> None:
    person = await a_person_whose_subdomain_is_not_the_slug(factory)
    assert await tenant_of(client, person, {"Host": form.format(person.tenant.subdomain)}) == str(person.tenant.id)


async def test_a_subdomain_is_compared_in_lower_case(client: AsyncClient, factory: Factory) -> None:
    person = await a_person_whose_subdomain_is_not_the_slug(factory)
    assert await tenant_of(client, person, {"Host": f"{person.tenant.subdomain}.localhost".upper()}) == str(person.tenant.id)


async def test_a_slug_is_no_subdomain_and_a_subdomain_no_slug(client: AsyncClient, factory: Factory) -> None:
    person = await a_person_whose_subdomain_is_not_the_slug(factory)
    refused(await client.get(TENANT, headers={"Host": f"{person.tenant.slug}.localhost"}), 404, "tenant_not_found")
    refused(await client.get(TENANT, headers={"X-Tenant-Slug": str(person.tenant.subdomain)}), 404, "tenant_not_found")


async def test_the_identifier_in_a_header_names_the_tenant(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    assert await tenant_of(client, person, {"X-Tenant-ID": str(person.tenant.id)}) == str(person.tenant.id)


async def test_the_slug_goes_before_the_subdomain_and_the_subdomain_before_the_identifier(client: AsyncClient, factory: Factory) -> None:
    first, second, third = [await factory.person() for _ in range(3)]
    by_slug, by_host, by_id = {"X-Tenant-Slug": first.tenant.slug}, {"Host": f"{second.tenant.subdomain}.localhost"}, {"X-Tenant-ID": str(third.tenant.id)}
    assert await tenant_of(client, first, by_id | by_host | by_slug) == str(first.tenant.id)
    assert await tenant_of(client, second, by_id | by_host) == str(second.tenant.id)
    assert await tenant_of(client, first, by_id | by_slug) == str(first.tenant.id)


async def test_an_unknown_name_is_not_passed_over_for_the_next_one(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    known = {"X-Tenant-ID": str(person.tenant.id), "Authorization": f"Bearer {person.token}"}
    refused(await client.get(TENANT, headers={**known, "X-Tenant-Slug": "nobody-s"}), 404, "tenant_not_found")
    refused(await client.get(TENANT, headers={**known, "Host": "nobody-s.localhost"}), 404, "tenant_not_found")


@pytest.mark.parametrize(
    "host",
    [
        "testserver",
        "localhost",
        "localhost:8000",
        ".localhost",
        "127.0.0.1",
        "127.0.0.1:8000",
        "[::1]",
        "[::1]:8000",
        "10.0.0.1.localhost",
        "",
        "a.b.localhost",
        "api.localhost",
        "www.localhost:8000",
    ],
)
async def test_a_host_that_names_no_tenant_leaves_it_to_be_named(client: AsyncClient, host: str) -> None:
    refused(await client.get(TENANT, headers={"Host": host}), 400, "tenant_required")


async def test_at_a_reserved_name_of_the_base_domain_the_body_and_the_identifier_name_the_tenant(client: AsyncClient, factory: Factory) -> None:
    person, host = await factory.person(), {"Host": "api.localhost"}
    assert await tenant_of(client, person, {**host, "X-Tenant-ID": str(person.tenant.id)}) == str(person.tenant.id)
    body = {"email": person.user.email, "password": PASSWORD, "tenant_slug": person.tenant.slug}
    tokens = accepted(await client.post("/api/v1/auth/login", headers=host, json=body))
    accepted(await client.post("/api/v1/auth/refresh", headers=host, json={"refresh_token": tokens["refresh_token"]}))


@pytest.mark.parametrize(
    "form", ["x.{}.localhost", "{}.example.com", "{}.localhost.example.com", "{}.notlocalhost", "{}localhost", "{}", "evil.com/{}.localhost"]
)
async def test_only_the_label_before_the_base_domain_counts(client: AsyncClient, factory: Factory, form: str) -> None:
    person = await factory.person()
    response = await client.get(TENANT, headers={"Host": form.format(person.tenant.subdomain), "Authorization": f"Bearer {person.token}"})
    assert response.status_code in (400, 404)


@pytest.mark.parametrize("path", ["/api/v1/tenant", "/api/v1/users", "/api/v1/auth/me", "/api/v1/projects/01987654-3210-7000-8000-000000000000"])
async def test_a_request_without_a_tenant_is_asked_for_one(client: AsyncClient, factory: Factory, path: str) -> None:
    person = await factory.person()
    refused(await client.get(path, headers={"Authorization": f"Bearer {person.token}"}), 400, "tenant_required")


@pytest.mark.parametrize(
    "name",
    [b"nobody-s", b"a", b"-a-", b"' OR 1=1 --", b"a" * 64, b"a" * 60_000, b"\xff\xfe", b"acme,globex", b"%00", b"../acme", b"acme\xa0", "ＡＣＭＥ".encode()],
)
@pytest.mark.parametrize("header", [b"X-Tenant-Slug", b"X-Tenant-ID"])
async def test_a_name_that_is_no_tenant_s_is_not_found(client: AsyncClient, header: bytes, name: bytes) -> None:
    refused(await client.get(TENANT, headers=[(header, name)]), 404, "tenant_not_found")


async def test_an_unknown_identifier_is_not_found(client: AsyncClient) -> None:
    refused(await client.get(TENANT, headers={"X-Tenant-ID": str(uuid4())}), 404, "tenant_not_found")


@pytest.mark.parametrize("host", [b"nobody-s.localhost", b"\xff.localhost", b"a_b.localhost", b"-.localhost", b"%00.localhost"])
async def test_a_subdomain_that_is_no_tenant_s_is_not_found(client: AsyncClient, host: bytes) -> None:
    refused(await client.get(TENANT, headers=[(b"Host", host)]), 404, "tenant_not_found")


async def test_a_suspended_tenant_is_refused_however_it_is_named(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person(await factory.tenant(is_active=False))
    for name in ({"X-Tenant-Slug": person.tenant.slug}, {"Host": f"{person.tenant.subdomain}.localhost"}, {"X-Tenant-ID": str(person.tenant.id)}):
        refused(await client.get(TENANT, headers={"Authorization": f"Bearer {person.token}", **name}), 403, "tenant_inactive")


async def test_the_token_of_another_tenant_is_refused(client: AsyncClient, factory: Factory) -> None:
    person, other = await factory.person(), await factory.person()
    for name in ({"X-Tenant-Slug": other.tenant.slug}, {"Host": f"{other.tenant.subdomain}.localhost"}, {"X-Tenant-ID": str(other.tenant.id)}):
        refused(await client.get(TENANT, headers={"Authorization": f"Bearer {person.token}", **name}), 403, "tenant_mismatch")


async def test_two_slugs_in_one_request_do_not_open_another_tenant(client: AsyncClient, factory: Factory) -> None:
    person, other = await factory.person(), await factory.person()
    token = (b"Authorization", f"Bearer {person.token}".encode())
    mine, foreign = (b"X-Tenant-Slug", person.tenant.slug.encode()), (b"X-Tenant-Slug", other.tenant.slug.encode())
    for headers in ([token, mine, foreign], [token, foreign, mine]):
        response = await client.get(TENANT, headers=headers)
        assert str(other.tenant.id) not in response.text
        assert other.tenant.name not in response.text


async def test_the_tenant_follows_a_changed_subdomain_at_once(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    old, new = str(person.tenant.subdomain), f"new-{uuid4().hex[:16]}"
    token = {"Authorization": f"Bearer {person.token}"}
    accepted(await client.get(TENANT, headers={**token, "Host": f"{old}.localhost"}))
    accepted(await client.patch(TENANT, headers=person.headers, json={"subdomain": new}))
    assert await tenant_of(client, person, {"Host": f"{new}.localhost"}) == str(person.tenant.id)
    refused(await client.get(TENANT, headers={**token, "Host": f"{old}.localhost"}), 404, "tenant_not_found")


async def test_without_a_base_domain_no_host_names_a_tenant(database_urls: tuple[str, str], factory: Factory) -> None:
    person = await factory.person()
    async with client_with(database_urls, base_domain=None) as client:
        refused(await client.get(TENANT, headers={"Host": f"{person.tenant.subdomain}.localhost"}), 400, "tenant_required")


async def test_another_base_domain_is_the_only_one(database_urls: tuple[str, str], factory: Factory) -> None:
    person = await factory.person()
    async with client_with(database_urls, base_domain="Example.com") as client:
        assert await tenant_of(client, person, {"Host": f"{person.tenant.subdomain}.example.com"}) == str(person.tenant.id)
        refused(await client.get(TENANT, headers={"Host": f"{person.tenant.subdomain}.localhost"}), 400, "tenant_required")
        refused(await client.get(TENANT, headers={"Host": "example.com"}), 400, "tenant_required")
