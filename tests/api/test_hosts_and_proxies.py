"""Which hosts are served, and whose word on them counts."""

import pytest
from httpx import AsyncClient

from tests.api.answers import accepted, refused
from tests.api.world import client_with
from tests.factories import PASSWORD, Factory, Person

TENANT = "/api/v1/tenant"
PROXY = "10.1.2.3"
STRANGER = "203.0.113.9"


def forwarded(person: Person, **headers: str) -> dict[str, str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"Authorization": f"Bearer {person.token}", "X-Forwarded-Host": f"{person.tenant.subdomain}.localhost", **named}


async def test_a_forwarded_host_counts_for_nothing_by_default(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    refused(await client.get(TENANT, headers=forwarded(person)), 400, "tenant_required")


async def test_a_forwarded_host_counts_from_a_trusted_proxy(database_urls: tuple[str, str], factory: Factory) -> None:
    person = await factory.person()
    async with client_with(database_urls, trusted_proxies=("10.0.0.0/8",), peer=PROXY) as client:
        assert accepted(await client.get(TENANT, headers=forwarded(person)))["id"] == str(person.tenant.id)


async def test_a_forwarded_host_from_a_stranger_counts_for_nothing(database_urls: tuple[str, str], factory: Factory) -> None:
    person = await factory.person()
    async with client_with(database_urls, trusted_proxies=("10.0.0.0/8",), peer=STRANGER) as client:
        refused(await client.get(TENANT, headers=forwarded(person)), 400, "tenant_required")


async def test_a_stranger_behind_the_proxy_cannot_name_the_host_twice(database_urls: tuple[str, str], factory: Factory) -> None:
    person, other = await factory.person(), await factory.person()
    async with client_with(database_urls, trusted_proxies=(PROXY,), peer=PROXY) as client:
        response = await client.get(TENANT, headers=forwarded(person, Host=f"{other.tenant.subdomain}.localhost"))
    assert accepted(response)["id"] == str(person.tenant.id)


@pytest.mark.parametrize(
    ("chain", "address"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("1.1.1.1, 198.51.100.7", "198.51.100.7"),
        ("1.1.1.1, 198.51.100.7, 10.9.9.9", "198.51.100.7"),
        ("10.9.9.9", PROXY),
        ("", PROXY),
        ("198.51.100.7:4711", "198.51.100.7"),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        ("2001:DB8::7", "2001:db8::7"),
        ("198.51.100.7, unknown", PROXY),
        ("198.51.100.7, unknown, 10.9.9.9", PROXY),
    ],
)
async def test_the_client_s_address_is_the_last_that_is_no_proxy_of_ours(database_urls: tuple[str, str], factory: Factory, chain: str, address: str) -> None:
    person = await factory.person()
    async with client_with(database_urls, trusted_proxies=("10.0.0.0/8",), peer=PROXY) as client:
        body = {"email": person.user.email, "password": PASSWORD, "tenant_slug": person.tenant.slug}
        accepted(await client.post("/api/v1/auth/login", json=body, headers={"X-Forwarded-For": chain}))
    rows = await factory.run("SELECT ip_address FROM sessions WHERE user_id = :id AND id <> :first", id=person.user.id, first=person.session_id)
    assert rows == [(address,)]


async def test_a_line_of_the_client_s_own_before_the_proxy_s_counts_for_nothing(database_urls: tuple[str, str], factory: Factory) -> None:
    person = await factory.person()
    async with client_with(database_urls, trusted_proxies=("10.0.0.0/8",), peer=PROXY) as client:
        body = {"email": person.user.email, "password": PASSWORD, "tenant_slug": person.tenant.slug}
        spoofed = [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "198.51.100.7")]
        accepted(await client.post("/api/v1/auth/login", json=body, headers=spoofed))
        hosts = [("X-Forwarded-Host", "evil.localhost"), ("X-Forwarded-Host", f"{person.tenant.subdomain}.localhost")]
        accepted(await client.get(TENANT, headers=[("Authorization", f"Bearer {person.token}"), *hosts]))
    rows = await factory.run("SELECT ip_address FROM sessions WHERE user_id = :id AND id <> :first", id=person.user.id, first=person.session_id)
    assert rows == [("198.51.100.7",)]


@pytest.mark.parametrize("name", ["Authorization", "Host", "X-Tenant-ID", "X-Tenant-Slug"])
async def test_a_header_that_says_whom_a_request_is_for_is_not_taken_twice(client: AsyncClient, factory: Factory, name: str) -> None:
    person = await factory.person()
    once = {"Host": "testserver", **person.headers, "X-Tenant-ID": str(person.tenant.id)}
    accepted(await client.get(TENANT, headers=once))
    refused(await client.get(TENANT, headers=[*once.items(), (name, once[name])]), 400, "ambiguous_header")


async def test_a_stranger_cannot_choose_its_address(client: AsyncClient, factory: Factory, address: str) -> None:
    person = await factory.person()
    body = {"email": person.user.email, "password": PASSWORD, "tenant_slug": person.tenant.slug}
    accepted(await client.post("/api/v1/auth/login", json=body, headers={"X-Forwarded-For": "198.51.100.7"}))
    rows = await factory.run("SELECT ip_address FROM sessions WHERE user_id = :id AND id <> :first", id=person.user.id, first=person.session_id)
    assert rows == [(address,)]


@pytest.mark.parametrize("host", ["api.example.com", "API.Example.com:443", "acme.example.org", "a.b.example.org"])
async def test_a_host_that_is_ours_is_served(database_urls: tuple[str, str], host: str) -> None:
    async with client_with(database_urls, allowed_hosts=("api.example.com", "*.example.org")) as client:
        refused(await client.get(TENANT, headers={"Host": host}), 400, "tenant_required")
        accepted(await client.get("/openapi.json", headers={"Host": host}))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "example.com",
        "example.org",
        "api.example.com.evil.example",
        "evilexample.org",
        "",
        "127.0.0.1",
        "[::1]:8000",
        "api.example.com@evil.example",
    ],
)
async def test_a_host_that_is_not_ours_is_refused(database_urls: tuple[str, str], host: str) -> None:
    async with client_with(database_urls, allowed_hosts=("api.example.com", "*.example.org")) as client:
        for path in ("/docs", "/openapi.json", TENANT, "/nowhere"):
            refused(await client.get(path, headers={"Host": host}), 400, "invalid_host")


async def test_a_trusted_proxy_cannot_bring_in_a_host_that_is_not_ours(database_urls: tuple[str, str]) -> None:
    async with client_with(database_urls, allowed_hosts=("testserver",), trusted_proxies=(PROXY,), peer=PROXY) as client:
        refused(await client.get("/docs", headers={"X-Forwarded-Host": "evil.example"}), 400, "invalid_host")


@pytest.mark.parametrize("host", ["10.0.0.1:8000", "[::1]", "evil.example", ""])
async def test_health_is_shown_to_load_balancers_that_ask_by_address(database_urls: tuple[str, str], host: str) -> None:
    async with client_with(database_urls, allowed_hosts=("api.example.com",)) as client:
        for path in ("/health", "/health/live", "/health/ready"):
            accepted(await client.get(path, headers={"Host": host}))


async def test_https_is_demanded_for_the_future_once_it_was_used(database_urls: tuple[str, str]) -> None:
    async with client_with(database_urls, trusted_proxies=(PROXY,), peer=PROXY) as client:
        over_https = await client.get("/health/live", headers={"X-Forwarded-Proto": "HTTPS"})
        over_http = await client.get("/health/live", headers={"X-Forwarded-Proto": "http"})
    assert "max-age=" in over_https.headers["strict-transport-security"]
    assert "strict-transport-security" not in over_http.headers
