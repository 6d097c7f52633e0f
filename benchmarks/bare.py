"""What the service is measured against: the same rows out of the same table, and nothing else.

One SELECT as the owner's role: no transaction, no tenant, no token, no row-level security, no limits, no log. asyncpg's pool is told not to reset a
connection as it comes back, which would be a second round trip: the yardstick is what the machine can do, not what is usual.
"""

import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import asyncpg
import typer
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.config import Settings
from app.utils.json import to_json

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

CONNECTIONS: int = Settings.model_fields["database_pool_size"].default
COLUMNS = "id, name, description, status, owner_id, view_count, is_deleted, deleted_at, created_at, updated_at, version"
LIST = f"SELECT {COLUMNS} FROM projects WHERE tenant_id = $1 AND NOT is_deleted ORDER BY created_at DESC, id DESC LIMIT $2"
ONE = f"SELECT {COLUMNS} FROM projects WHERE tenant_id = $1 AND id = $2 AND NOT is_deleted"


async def list_projects(request: Request) -> Response:
    """Answer the newest projects of the tenant that the query names."""
    query = request.query_params
    rows = await request.app.state.pool.fetch(LIST, UUID(query["tenant_id"]), int(query["page_size"]))
    return Response(to_json({"items": [dict(row) for row in rows]}), media_type="application/json")


async def read_project(request: Request) -> Response:
    """Answer one project."""
    row = await request.app.state.pool.fetchrow(ONE, UUID(request.query_params["tenant_id"]), UUID(request.path_params["project_id"]))
    return Response(to_json(dict(row)), media_type="application/json") if row else Response(status_code=404)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open a pool as large as the service's."""
    async with asyncpg.create_pool(os.environ["BARE_DATABASE_URL"], min_size=CONNECTIONS, max_size=CONNECTIONS, reset=_leave_as_it_is) as pool:
        app.state.pool = pool
        yield


async def _leave_as_it_is(connection: "Connection") -> None:
    pass


app = Starlette(routes=[Route("/projects", list_projects), Route("/projects/{project_id}", read_project)], lifespan=lifespan)


def main(port: Annotated[int, typer.Option(min=1, max=65535)]) -> None:
    """Serve, with the same server and the same settings of it as the service."""
    # As app/server.py does, so that nobody gains by it.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        date_header=True,
    )


if __name__ == "__main__":
    typer.run(main)
