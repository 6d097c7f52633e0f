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
from starlette.types import Receive, Scope, Send

OWN_FILES = Path(__file__).parents[2] / "static"
ASSETS_PATH = "/docs/assets"
ASSETS_CACHE_CONTROL = "public, max-age=3600"
PAGE_CACHE_CONTROL = "no-cache"

router = APIRouter(include_in_schema=False)


class WholeFile(FileResponse):
    """A file that is always sent whole, as RFC 9110 (section 14.2) allows: Starlette answers a range that it cannot send in a form of its own."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, as if no range had been asked for."""
        self.headers["Accept-Ranges"] = "none"
        await super().__call__(without_range(scope), receive, send)


def without_range(scope: Scope) -> Scope:
    """Return the request without its header Range."""
    return {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != b"range"]}


class CachedFiles(StaticFiles):
    """Static files that browsers may keep for an hour before they ask again, and that are always sent whole."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file that the path names."""
        await super().__call__(without_range(scope), receive, send)

    def file_response(self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200) -> Response:
        """Return the file, or 304 where the browser has it."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update({"Cache-Control": ASSETS_CACHE_CONTROL, "Accept-Ranges": "none"})
        return response


def mount_documentation(app: FastAPI) -> None:
    """Add both pages and their assets. The application is to be made with `docs_url=None` and `redoc_url=None`."""
    app.router.routes.extend(router.routes)
    app.mount(ASSETS_PATH, CachedFiles(directory=OWN_FILES, packages=[("fastapi_standalone_docs", "static")]))


@router.get("/")
async def home() -> RedirectResponse:
    """Lead to the documentation: the address by itself is what `make run` prints, and what people try first."""
    return RedirectResponse("docs")


@router.get("/docs")
async def swagger_ui() -> WholeFile:
    """Return the page on which every operation can be tried."""
    return _page("docs.html")


@router.get("/redoc")
async def redoc() -> WholeFile:
    """Return the page for reading."""
    return _page("redoc.html")


@router.get("/redoc/logo-mini.svg")
async def redoc_logo() -> RedirectResponse:
    """Lead to ReDoc's logo, which its script looks for below its own page."""
    return RedirectResponse("../docs/assets/redoc/logo-mini.svg")


def _page(name: str) -> WholeFile:
    return WholeFile(OWN_FILES / name, media_type="text/html", headers={"Cache-Control": PAGE_CACHE_CONTROL})
