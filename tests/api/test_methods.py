"""Methods: HEAD, and what a refused method and a preflight are told."""

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient, Request, Response

from tests.api.answers import accepted, problem_in, refused
from tests.api.world import World, client_with

ALLOWED = [
    ("/api/v1/projects", {"GET", "POST"}),
    ("/api/v1/projects/{project_id}", {"GET", "PATCH", "DELETE"}),
    ("/api/v1/projects/{project_id}/restore", {"POST"}),
    ("/api/v1/users/invitations/{invitation_id}", {"DELETE"}),
    ("/api/v1/users/{user_id}", {"GET", "PATCH", "DELETE"}),
    ("/api/v1/resources", {"GET", "POST"}),
    ("/api/v1/tenant", {"GET", "PATCH"}),
    ("/api/v1/auth/login", {"POST"}),
    ("/health", {"GET"}),
    ("/openapi.json", {"GET"}),
    ("/", {"GET"}),
    ("/docs", {"GET"}),
    ("/redoc", {"GET"}),
    ("/docs/assets/docs.js", {"GET"}),
]


@pytest.mark.parametrize("path", ["/health", "/health/live", "/docs", "/docs/assets/docs.js", "/openapi.json", "/api/v1/projects", "/api/v1/tenant"])
async def test_head_is_answered_as_get_without_a_body(client: AsyncClient, world: World, path: str) -> None:
    """RFC 9110, section 9.1: every server must support GET and HEAD."""
    response, got = await client.head(path, headers=world.admin.headers), await client.get(path, headers=world.admin.headers)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"] == got.headers["content-type"]


async def test_head_is_refused_as_get_is_without_a_body(client: AsyncClient, world: World) -> None:
    for path, headers, status in (("/nowhere", {}, 404), ("/api/v1/tenant", {}, 400), ("/api/v1/tenant", {"X-Tenant-Slug": world.tenant.slug}, 401)):
        response = await client.head(path, headers=headers)
        assert (response.status_code, response.content) == (status, b"")
        assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("method", ["PUT", "TRACE", "FOO", "get", "PROPFIND", "X" * 1_000, "OPTIONS"], ids=lambda method: str(method[:10]))
@pytest.mark.parametrize(("path", "methods"), ALLOWED, ids=lambda value: value if isinstance(value, str) else "")
async def test_a_refused_method_is_told_which_are_allowed(app: FastAPI, world: World, path: str, methods: set[str], method: str) -> None:
    """RFC 9110, section 15.5.6: Allow lists the methods that the resource supports."""
    # httpx writes methods in upper case.
    request = Request("GET", "http://testserver" + world.path(path), headers=world.admin.headers)
    request.method = method
    raw = await ASGITransport(app).handle_async_request(request)
    response = Response(raw.status_code, headers=raw.headers, content=await raw.aread())
    refused(response, 405, "method_not_allowed")
    assert {name.strip() for name in response.headers["allow"].split(",")} - {"HEAD"} == methods


async def test_a_page_of_an_allowed_origin_may_call(database_urls: tuple[str, str], world: World) -> None:
    async with client_with(database_urls, allowed_origins=("https://app.example.com",)) as client:
        origin = {"Origin": "https://app.example.com"}
        asked = {**origin, "Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "authorization,x-tenant-slug"}
        preflight = await client.options("/api/v1/projects", headers=asked)
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, "https://app.example.com")
        response = await client.get("/api/v1/projects", headers={**world.admin.headers, **origin})
        accepted(response)
        assert response.headers["access-control-allow-origin"] == "https://app.example.com"
        assert "access-control-allow-credentials" not in response.headers
        # What is not named there, the page does not see, save for a few that everybody may (the Fetch standard's safelist) and what is the browser's.
        exposed = set(response.headers["access-control-expose-headers"].lower().split(", "))
        told = {
            "ratelimit",
            "ratelimit-policy",
            "server-timing",
            "x-process-time",
            "x-ratelimit-limit",
            "x-ratelimit-remaining",
            "x-ratelimit-reset",
            "x-request-id",
        }
        assert told <= exposed & set(response.headers)


async def test_an_error_can_be_read_by_a_page_of_an_allowed_origin(database_urls: tuple[str, str]) -> None:
    async with client_with(database_urls, allowed_origins=("https://app.example.com",)) as client:
        response = await client.get("/api/v1/projects", headers={"Origin": "https://app.example.com"})
        refused(response, 400, "tenant_required")
        assert response.headers["access-control-allow-origin"] == "https://app.example.com"


async def test_a_page_of_another_origin_may_not_call(database_urls: tuple[str, str], world: World) -> None:
    async with client_with(database_urls, allowed_origins=("https://app.example.com",)) as client:
        origin = {"Origin": "https://evil.example"}
        preflight = await client.options("/api/v1/projects", headers={**origin, "Access-Control-Request-Method": "GET"})
        problem_in(preflight)
        assert preflight.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in preflight.headers
        response = await client.get("/api/v1/projects", headers={**world.admin.headers, **origin})
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    ("hosts", "code"),
    [((("Host", "localhost"), ("Host", "evil.example")), "ambiguous_header"), ((("Host", "evil.example"),), "invalid_host")],
    ids=["two hosts", "a foreign host"],
)
async def test_a_preflight_is_refused_for_its_host_as_any_request_is(database_urls: tuple[str, str], hosts: tuple[tuple[str, str], ...], code: str) -> None:
    async with client_with(database_urls, allowed_origins=("https://app.example.com",), allowed_hosts=("localhost",)) as client:
        headers = [*hosts, ("Origin", "https://app.example.com"), ("Access-Control-Request-Method", "GET")]
        refused(await client.options("/api/v1/projects", headers=headers), 400, code)
