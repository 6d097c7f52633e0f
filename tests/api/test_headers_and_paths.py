"""What every answer carries, and what becomes of paths, methods and identifiers that are not right."""

import re

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient, Request, Response

from app.services.container import Services
from tests.api.answers import problem_in, refused
from tests.api.world import World

SOME_ID = "01987654-3210-7000-8000-000000000000"
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}
DOCUMENTATION = ("/docs", "/redoc", "/docs/assets/docs.js")
ANSWERS = [
    *(("GET", path, 200) for path in ("/health", "/health/live", "/health/ready", "/openapi.json", *DOCUMENTATION)),
    *(("GET", "/api/v1/tenant", 200), ("GET", "/api/v1/projects/1", 422), ("GET", f"/api/v1/projects/{SOME_ID}", 404), ("PUT", "/api/v1/projects", 405)),
    *(("GET", "/nowhere", 404), ("GET", "/api/v1/nowhere", 404), ("POST", "/api/v1/projects", 422), ("POST", "/health", 405), ("GET", "/api/v1/tenant/x", 404)),
]


async def answer_to(client: AsyncClient, world: World, method: str, path: str, **headers: str) -> Response:
    return await client.request(method, path, headers={**world.admin.headers, **headers})


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS)
async def test_every_answer_carries_its_identifier_its_time_and_the_security_headers(
    client: AsyncClient, world: World, method: str, path: str, status: int
) -> None:
    response = await answer_to(client, world, method, path)
    assert response.status_code == status, response.text
    check_headers(response)


async def test_an_error_that_nobody_foresaw_shows_nothing_and_carries_the_headers(
    client: AsyncClient, world: World, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("SELECT secret FROM places")

    monkeypatch.setattr(services.database, "read", failing)
    response = await answer_to(client, world, "GET", "/api/v1/projects")
    document = response.json()
    assert (response.status_code, document["code"], document["status"]) == (500, "internal_error", 500)
    assert response.headers["content-type"] == "application/problem+json"
    assert document["request_id"] == response.headers["x-request-id"]
    assert not {"secret", "RuntimeError", "Traceback", "app/"} & set(re.findall(r"\w+/?", response.text))
    check_headers(response)


def check_headers(response: Response) -> None:
    assert response.headers["x-request-id"]
    assert 0 < float(response.headers["x-process-time"]) < 60
    assert re.fullmatch(r"app;dur=\d+\.\d+", response.headers["server-timing"])
    assert SECURITY_HEADERS.items() <= dict(response.headers).items()
    assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
    for name in ("x-request-id", "x-process-time", "server-timing", *SECURITY_HEADERS):
        assert len(response.headers.get_list(name)) == 1
    assert "server" not in response.headers


async def test_answers_of_the_api_are_not_stored_by_caches(client: AsyncClient, world: World) -> None:
    for path in ("/api/v1/tenant", "/api/v1/projects/1", "/nowhere", "/health"):
        assert (await answer_to(client, world, "GET", path)).headers["cache-control"] == "no-store"


@pytest.mark.parametrize("identifier", ["a", "0", "A-b_c.D", "x" * 128, "..", "-"])
@pytest.mark.parametrize("path", ["/health/live", "/nowhere", "/api/v1/tenant"])
async def test_a_request_identifier_is_taken_over(client: AsyncClient, world: World, identifier: str, path: str) -> None:
    response = await answer_to(client, world, "GET", path, **{"X-Request-ID": identifier})
    assert response.headers["x-request-id"] == identifier
    if response.is_error:
        assert response.json()["request_id"] == identifier


@pytest.mark.parametrize(
    "identifier", [b"", b"x" * 129, b"a b", b"a,b", b"a/b", b"\xe9", b"a\n", b"a\tb", b"{}", b"a\r\nSet-Cookie: x=1", b"%20", b"a;b", b"\0"]
)
async def test_a_request_identifier_that_is_not_right_is_replaced(app: FastAPI, identifier: bytes) -> None:
    # Not through httpx, which would not send some of these.
    request = Request("GET", "http://testserver/health/live")
    request.headers._list = [(b"X-Request-ID", b"x-request-id", identifier)]
    response = await ASGITransport(app).handle_async_request(request)
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


async def test_each_request_without_an_identifier_gets_one_of_its_own(client: AsyncClient) -> None:
    identifiers = {(await client.get("/health/live")).headers["x-request-id"] for _ in range(10)}
    assert len(identifiers) == 10


OBJECTS = ["/api/v1/projects/{}", "/api/v1/users/{}", "/api/v1/resources/{}"]


@pytest.mark.parametrize("path", OBJECTS)
@pytest.mark.parametrize(
    "identifier",
    [
        "1",
        "x",
        "null",
        "me",
        f"{SOME_ID}x",
        SOME_ID[:-1],
        "%00",
        "%ff",
        "%ed%a0%80",
        "'",
        "%27%20OR%201=1",
        "..",
        "%2e%2e",
        "x" * 5_000,
        "%F0%9F%9A%80",
        "-1",
        "{}",
        "*",
        SOME_ID.upper().replace("0198", "A198"),
        SOME_ID.replace("0198", "aB98"),
        SOME_ID.replace("-", ""),
        f"%7B{SOME_ID}%7D",
        f"urn:uuid:{SOME_ID}",
        f"%20{SOME_ID}",
        f"{SOME_ID}%20",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_a_malformed_identifier_is_refused(client: AsyncClient, world: World, path: str, identifier: str, method: str) -> None:
    response = await client.request(method, path.format(identifier), headers=world.admin.headers, json={} if method == "PATCH" else None)
    document = problem_in(response)
    # Dots are path segments of their own: with them it is another path.
    assert document["status"] in ((404, 405, 422) if "." in identifier or "2e" in identifier else (422,))


@pytest.mark.parametrize(
    "path",
    [
        *("/nowhere", "//api/v1/tenant", "/api//v1/tenant", "/api/v1//tenant", "/api/v1/tenant/", "/api/v1/projects/", "/API/V1/tenant", "/api/v2/tenant"),
        *("/api/v1/%2e%2e/v1/tenant", "/api/v1/../v1/tenant/x", "/api/v1/tenant%00", "/api/v1/tenant%20", "/api/v1/tenant;x=1", "/api/v1%2ftenantx"),
        *("/%00", "/%ff%fe", "/%ed%a0%80", "/" + "x" * 20_000, "/" + "a/" * 5_000, "/api", "/api/v1", "/api/v1/", "/metrics", "/.env", "/.git/config"),
        *("/docs/assets/", "/docs/assets/%00", "/docs/assets/..%2f..%2fconfig.py", "/docs/assets/%2e%2e/%2e%2e/config.py", "/docs/assets/" + "x" * 5_000),
        *("/docs/assets/..%5c..%5cconfig.py", "/docs/assets//etc/passwd", "/docs/assets/nothing.js", "/docs/assets/%ff", "/health/", "/health/nothing"),
    ],
)
async def test_a_path_that_is_not_there_is_not_found(client: AsyncClient, world: World, path: str) -> None:
    assert problem_in(await answer_to(client, world, "GET", path))["status"] == 404


@pytest.mark.parametrize("header", ["Authorization", "X-Tenant-Slug", "X-Request-ID", "Accept", "Cookie", "X-Anything", "User-Agent", "X-Forwarded-For"])
async def test_a_header_of_100_kilobytes_breaks_nothing(client: AsyncClient, world: World, header: str) -> None:
    response = await answer_to(client, world, "GET", "/api/v1/tenant", **{header: "x" * 100_000})
    assert response.status_code in (200, 401, 404), response.text[:200]


async def test_a_client_that_accepts_something_else_gets_json_all_the_same(client: AsyncClient, world: World) -> None:
    response = await answer_to(client, world, "GET", "/api/v1/tenant", Accept="text/html")
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "query", ["%", "%zz", "a=%00", "=%ff", "&&&", "a=1&a=2", "page_size=1&page_size=2", "page_size[]=1", "%00=%00", "q=%ed%a0%80", "x" * 50_000]
)
async def test_a_query_string_of_any_kind_breaks_nothing(client: AsyncClient, world: World, query: str) -> None:
    for path in ("/api/v1/projects", "/api/v1/tenant", "/health/live"):
        response = await answer_to(client, world, "GET", f"{path}?{query}")
        assert response.status_code in (200, 422), response.text


@pytest.mark.parametrize("path", ["/api/v1/projects", "/api/v1/tenant", "/docs"])
async def test_very_many_query_parameters_are_one_error(client: AsyncClient, world: World, path: str) -> None:
    """Before they are taken apart, which takes half a second for a million bytes."""
    response = await answer_to(client, world, "GET", f"{path}?{'a&' * 30_000}")
    document = refused(response, 422, "validation_error")
    assert [error["loc"] for error in document["errors"]] == [["query"]]


async def test_fifty_query_parameters_are_each_named(client: AsyncClient, world: World) -> None:
    query = "&".join(f"a{number}=1" for number in range(50))
    document = refused(await answer_to(client, world, "GET", f"/api/v1/projects?{query}"), 422, "validation_error")
    assert [error["loc"] for error in document["errors"]] == [["query", f"a{number}"] for number in range(50)]


@pytest.mark.parametrize(
    "path", [f"/{'x' * 60_000}", f"/api/v1/projects?{'x' * 60_000}=1", f"/api/v1/projects/{'x' * 60_000}"], ids=["nowhere", "query", "identifier"]
)
async def test_a_long_address_is_not_sent_back_whole(client: AsyncClient, world: World, path: str) -> None:
    response = await answer_to(client, world, "GET", path)
    assert problem_in(response)["status"] in (404, 422)
    assert len(response.content) < 2_000
