"""The pages that the links in mails open: complete on this server alone, under the strictest policy, and remembered by nobody."""

import re
from pathlib import Path
from urllib.parse import urljoin

import pytest
from httpx import AsyncClient

from app.api.endpoints.documentation import OWN_FILES
from app.api.endpoints.pages import LOADED
from app.jobs.mail_contents import LINKS
from tests.api.test_documentation import Page

PAGES = ("/account/verify-email", "/account/reset-password", "/account/accept-invitation")
SOURCE = (Path(OWN_FILES) / "account.js").read_text()


def test_every_link_of_a_mail_has_its_page() -> None:
    assert {f"/account/{page}" for _, _, page in LINKS.values()} | {"/account/accept-invitation"} == set(PAGES)


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_needs_no_tenant_and_is_not_kept_by_anybody(client: AsyncClient, path: str) -> None:
    page = await client.get(f"{path}?tenant=acme")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert "ratelimit" not in page.headers


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_may_load_from_this_server_alone_and_run_nothing_inline(client: AsyncClient, path: str) -> None:
    page = await client.get(path)
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in page.headers["content-security-policy"]
    source = Page(page.text)
    assert source.inline_scripts == []
    assert not {name for name in source.attributes if name.startswith("on") or name == "style"}
    assert "<style" not in page.text
    assert {link.rpartition("/")[2] for link in source.links} == LOADED
    for link in source.links:
        assert (await client.get(urljoin(path, link))).status_code == 200


async def test_a_page_asks_the_operations_of_the_api_that_are_there(client: AsyncClient) -> None:
    """By addresses relative to the page, so that they also work behind a proxy that adds a prefix."""
    assert urljoin("/account/verify-email", "../api/v1/auth/") == "/api/v1/auth/"
    assert "fetch(`../api/v1/auth/${path}`" in SOURCE
    assert re.findall(r'(?:path: |call\()"([\w/-]+)"', SOURCE) == ["verify-email", "password/reset", "register", "captcha"]


def test_the_script_makes_no_markup_of_what_it_is_told() -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", SOURCE)
    # The token leaves the address bar before anything else can happen.
    assert SOURCE.index("history.replaceState") < SOURCE.index("fetch(")


@pytest.mark.parametrize("path", ["/account", "/account/", "/account/docs.html", "/account/account.html", "/account/..%2fconfig.py", "/account/verify-email/"])
async def test_nothing_else_is_served_below_account(client: AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
