"""The pages /docs and /redoc: complete on this server alone, and under a strict Content-Security-Policy."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from fastapi import FastAPI

from app.api.endpoints.documentation import OWN_FILES, mount_documentation
from app.config import Settings
from app.main import create_app

PAGES = ("/docs", "/redoc")
ORIGIN = "http://service.test"


class Page(HTMLParser):
    """What a browser would load and run for a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.inline_scripts: list[str] = []
        self._in_script = False
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "spec-url", "data-openapi-url")]
        self._in_script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script and data.strip():
            self.inline_scripts.append(data)


@asynccontextmanager
async def client_of_a_service_with_documentation() -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI(docs_url=None, redoc_url=None)
    mount_documentation(app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN) as client:
        yield client


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_is_html_that_browsers_ask_for_anew(path: str) -> None:
    async with client_of_a_service_with_documentation() as client:
        response = await client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"


async def test_the_address_by_itself_leads_to_the_documentation() -> None:
    async with client_of_a_service_with_documentation() as client:
        response = await client.get("/")
    # Relative, for a proxy that adds a prefix.
    assert (response.status_code, response.headers["location"]) == (307, "docs")


@pytest.mark.parametrize("path", [*PAGES, "/docs/assets/docs.js", "/account/verify-email", "/account/account.js"])
@pytest.mark.parametrize("asked", ["bytes=0-9", "bytes=99999999-", "bytes=9-1", "bytes=0-1,3-4", "lines=1-2", "nonsense"])
async def test_a_file_is_sent_whole_whatever_range_is_asked_for(client: httpx.AsyncClient, path: str, asked: str) -> None:
    whole, response = await client.get(path), await client.get(path, headers={"Range": asked})
    assert (response.status_code, response.content) == (200, whole.content)
    assert (response.headers["accept-ranges"], response.headers["content-type"]) == ("none", whole.headers["content-type"])


@pytest.mark.parametrize("path", PAGES)
async def test_everything_that_a_page_loads_is_on_this_server(path: str) -> None:
    async with client_of_a_service_with_documentation() as client:
        page = Page((await client.get(path)).text)
        assert page.links
        for link in page.links:
            url = urljoin(ORIGIN + path, link)
            assert url.startswith(ORIGIN + "/"), link
            assert (await client.get(url)).status_code == 200, link


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_runs_without_inline_scripts(path: str) -> None:
    async with client_of_a_service_with_documentation() as client:
        page = Page((await client.get(path)).text)
    assert page.inline_scripts == []
    assert not {name for name in page.attributes if name.startswith("on")}


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_works_behind_a_proxy_that_adds_a_prefix(path: str) -> None:
    async with client_of_a_service_with_documentation() as client:
        page = Page((await client.get(path)).text)
    assert [link for link in page.links if urlsplit(link).netloc or link.startswith("/")] == []


@pytest.mark.parametrize("file", sorted(OWN_FILES.iterdir()), ids=lambda file: str(file.name))
def test_our_own_files_name_no_other_host(file: Path) -> None:
    source = file.read_text()
    assert [url for url in re.findall(r"(?:https?:)?//[\w.-]+\.\w+", source) if "www.w3.org" not in url] == []


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/docs/assets/docs.js", "text/javascript; charset=utf-8"),
        ("/docs/assets/favicon.svg", "image/svg+xml"),
        ("/docs/assets/swagger/swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
        ("/docs/assets/swagger/swagger-ui.css", "text/css; charset=utf-8"),
        ("/docs/assets/redoc/redoc.standalone.js", "text/javascript; charset=utf-8"),
    ],
)
async def test_an_asset_has_its_type_and_is_sent_once(path: str, content_type: str) -> None:
    async with client_of_a_service_with_documentation() as client:
        first = await client.get(path)
        again = await client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert first.status_code == 200
    assert first.headers["content-type"] == content_type
    assert first.headers["cache-control"] == "public, max-age=3600"
    assert (again.status_code, again.content) == (304, b"")


async def test_swagger_ui_reads_openapi_3_1() -> None:
    async with client_of_a_service_with_documentation() as client:
        script = (await client.get("/docs/assets/swagger/swagger-ui-bundle.js")).text
    version = re.search(r'PACKAGE_VERSION:"(\d+)\.(\d+)', script)
    assert version is not None
    assert (int(version[1]), int(version[2])) >= (5, 17)


async def test_redoc_finds_its_logo_on_this_server() -> None:
    async with client_of_a_service_with_documentation() as client:
        assert "https://cdn.redoc.ly" not in (await client.get("/docs/assets/redoc/redoc.standalone.js")).text
        logo = await client.get("/redoc/logo-mini.svg", follow_redirects=True)
    assert logo.status_code == 200
    assert logo.headers["content-type"] == "image/svg+xml"


@pytest.mark.parametrize(
    "path", ["/docs/assets/../../config.py", "/docs/assets/..%2f..%2fconfig.py", "/docs/assets/%00", "/docs/assets/", "/docs/assets/absent.js"]
)
async def test_nothing_but_the_assets_is_served(path: str) -> None:
    async with client_of_a_service_with_documentation() as client:
        assert (await client.get(path)).status_code == 404


async def test_the_pages_are_not_operations_of_the_api() -> None:
    app = FastAPI(docs_url=None, redoc_url=None)
    mount_documentation(app)
    assert app.openapi()["paths"] == {}


GUARDED = """
    tenant_required not_authenticated token_invalid token_expired token_revoked forbidden tenant_inactive tenant_mismatch tenant_not_found
    validation_error rate_limited database_unavailable overloaded rate_limiter_unavailable internal_error
""".split()  # noqa: SIM905 (a list of words is easier to read than a list of literals)
WITH_BODY = ["bad_request", "request_timeout", "content_too_large", "unsupported_media_type"]


@pytest.mark.parametrize(
    ("method", "path", "codes"),
    [
        ("get", "/api/v1/tenant", GUARDED),
        ("get", "/api/v1/projects", [*GUARDED, "invalid_cursor", "page_too_deep"]),
        ("get", "/api/v1/projects/{project_id}", [*GUARDED, "not_found"]),
        ("post", "/api/v1/projects", [*GUARDED, *WITH_BODY, "owner_not_found", "conflict"]),
        ("delete", "/api/v1/users/{user_id}", [*GUARDED, "not_found", "last_admin", "conflict"]),
    ],
)
def test_an_operation_names_each_code_that_it_may_answer(method: str, path: str, codes: list[str]) -> None:
    operation = create_app(Settings(_env_file=None)).openapi()["paths"][path][method]
    errors = [answer["description"] for status, answer in operation["responses"].items() if status[0] in "45"]
    assert sorted(re.findall(r"`(\w+)`", " ".join(errors))) == sorted(codes)
    for answer in operation["responses"].values():
        problems = answer.get("content", {}).get("application/problem+json", {})
        assert [code for code, example in problems.get("examples", {}).items() if example["value"]["code"] != code] == []
