"""Reads that are called without FastAPI: which they are, and that nobody can tell."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, cast
from uuid import UUID

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.routing import APIRoute
from httpx import ASGITransport, AsyncClient
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from app.api.direct import DirectMiddleware, direct_app
from app.api.router import routes

router = APIRouter()
calls: list[str] = []


async def caller(request: Request) -> str:
    return request.headers["x-caller"]


@router.get("/things/special")
async def special() -> str:
    """Be declared first, and need FastAPI."""
    return "special"


@router.get("/things/{thing_id}")
async def thing(thing_id: UUID, who: Annotated[str, Depends(caller)]) -> Response:
    """Answer what can be called directly."""
    return Response(f"{who} {thing_id.version}")


@router.post("/things/{thing_id}")
async def change(thing_id: UUID) -> Response:
    """Answer what cannot, at the same path."""
    return Response("changed")


@pytest.fixture
async def client() -> AsyncIterator[AsyncClient]:
    """A client of an application that notes which requests FastAPI gets to see."""
    calls.clear()
    application = FastAPI(routes=router.routes)

    async def noted(scope: Scope, receive: Receive, send: Send) -> None:
        calls.append(f"{scope['method']} {scope['path']}")
        await application(scope, receive, send)

    async with AsyncClient(transport=ASGITransport(DirectMiddleware(noted, router.routes)), base_url="http://testserver") as made:
        yield made


async def test_a_direct_read_never_gets_to_fastapi(client: AsyncClient) -> None:
    answer = await client.get(f"/things/{UUID(int=0, version=4)}", headers={"X-Caller": "somebody"})
    assert (answer.status_code, answer.text, calls) == (200, "somebody 4", [])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/things/special", 200), ("POST", f"/things/{UUID(int=0)}", 200), ("PUT", f"/things/{UUID(int=0)}", 405), ("GET", "/nowhere", 404)],
)
async def test_everything_else_does(client: AsyncClient, method: str, path: str, status: int) -> None:
    """A route that is declared earlier is meant, though a later one that is direct would fit as well."""
    answer = await client.request(method, path)
    assert (answer.status_code, calls) == (status, [f"{method} {path}"])


def some_routes() -> list[APIRoute]:
    """Return routes that get in each other's way."""
    direct = ["/a", "/a/b", "/a/{x}", "/a/{x}/b", "/a/{x}/b/{y}", "/{x}/b", "/b/{x}", "/b/c"]
    made = [APIRoute(path, _reading(path.count("{")), methods=["GET"]) for path in direct]
    made[2:2] = [APIRoute("/c/{rest:path}", _reading(1, "rest"), methods=["GET"]), APIRoute("/b/b", special, methods=["GET"])]
    return made


def _reading(parameters: int, *names: str) -> Any:
    """Return an endpoint that takes so many parameters of the path, and can be called directly."""
    source = f"async def read({', '.join(f'{name}: str' for name in (names or ('x', 'y'))[:parameters])}) -> Response: return Response()"
    namespace: dict[str, Any] = {"Response": Response}
    exec(source, namespace)
    return namespace["read"]


@given(st.lists(st.sampled_from(["a", "b", "c", "d", "", "{x}", "b\n"]), max_size=5))
def test_the_same_route_is_meant_as_by_the_router(segments: list[str]) -> None:
    path, made = "/" + "/".join(segments), some_routes()
    scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": []}
    expected = next((route for route in made if route.matches(scope)[0] is Match.FULL), None)
    if expected is not None and direct_app(expected) is None:
        expected = None
    passed_on: list[str] = []

    async def noted(scope: Scope, receive: Receive, send: Send) -> None:
        passed_on.append(scope["path"])

    async def send(message: Any) -> None:
        pass

    asyncio.run(cast("Any", DirectMiddleware(noted, made)(scope, cast("Any", None), send)))
    assert (scope.get("route"), passed_on) == (expected, [] if expected else [path])
    if expected is not None:
        assert scope["path_params"] == expected.matches({**scope, "path_params": {}})[1]["path_params"]


def test_lists_and_single_rows_are_read_directly() -> None:
    direct = {route.path for route in routes() if isinstance(route, APIRoute) and direct_app(route) is not None}
    single = {"/api/v1/projects/{project_id}", "/api/v1/resources/{resource_id}", "/api/v1/users/{user_id}"}
    assert direct == single | {path.rpartition("/")[0] for path in single} | {"/api/v1/users/invitations", "/api/v1/auth/sessions"}
