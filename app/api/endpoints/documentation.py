"""The interactive documentation: Swagger UI at /docs, ReDoc at /redoc, both out of this server alone.

The pages are files in `app/static`; Swagger UI and ReDoc come with the package `fastapi-standalone-docs`, of which only the files are used.
Every link in the pages is relative, so that they also work behind a proxy that adds a prefix, and no script stands in a page itself, so that
they work under a Content-Security-Policy without 'unsafe-inline' scripts.
"""

import os
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.types import Scope

OWN_FILES = Path(__file__).parents[2] / "static"
ASSETS_PATH = "/docs/assets"
ASSETS_CACHE_CONTROL = "public, max-age=3600"
PAGE_CACHE_CONTROL = "no-cache"

router = APIRouter(include_in_schema=False)


class CachedFiles(StaticFiles):
    """Static files that browsers may keep for an hour before they ask again."""

    def file_response(self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200) -> Response:
        """Return the file, or 304 where the browser has it."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["Cache-Control"] = ASSETS_CACHE_CONTROL
        return response


def mount_documentation(app: FastAPI) -> None:
    """Add both pages and their assets. The application is to be made with `docs_url=None` and `redoc_url=None`."""
    app.router.routes.extend(router.routes)
    app.mount(ASSETS_PATH, CachedFiles(directory=OWN_FILES, packages=[("fastapi_standalone_docs", "static")]))


@router.get("/docs")
async def swagger_ui() -> FileResponse:
    """Return the page on which every operation can be tried."""
    return _page("docs.html")


@router.get("/redoc")
async def redoc() -> FileResponse:
    """Return the page for reading."""
    return _page("redoc.html")


@router.get("/redoc/logo-mini.svg")
async def redoc_logo() -> RedirectResponse:
    """Lead to ReDoc's logo, which its script looks for below its own page."""
    return RedirectResponse("../docs/assets/redoc/logo-mini.svg")


def _page(name: str) -> FileResponse:
    return FileResponse(OWN_FILES / name, media_type="text/html", headers={"Cache-Control": PAGE_CACHE_CONTROL})
