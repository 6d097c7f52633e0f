"""Reads that are called without FastAPI: which they are, and that nobody can tell."""

from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.routing import APIRoute
from httpx import ASGITransport, AsyncClient
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


def test_lists_and_single_rows_are_read_directly() -> None:
    direct = {route.path for route in routes() if isinstance(route, APIRoute) and direct_app(route) is not None}
    single = {"/api/v1/projects/{project_id}", "/api/v1/resources/{resource_id}", "/api/v1/users/{user_id}"}
    assert direct == single | {path.rpartition("/")[0] for path in single} | {"/api/v1/users/invitations", "/api/v1/auth/sessions"}
