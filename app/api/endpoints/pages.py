"""The pages that the links in mails open, so that they work where there is no front end (yet): one page, which sees by its address what it is for.

They are files in `app/static`, served below /account alone, so that a front end which takes PUBLIC_URL over replaces all of it.
"""

from fastapi import APIRouter

from app.api.endpoints.documentation import OWN_FILES, WholeFile
from app.core.exceptions import NotFound

LOADED = frozenset({"account.css", "account.js", "favicon.svg"})

router = APIRouter(prefix="/account", include_in_schema=False)


@router.get("/verify-email")
@router.get("/reset-password")
@router.get("/accept-invitation")
async def account_page() -> WholeFile:
    """Return the page."""
    return WholeFile(OWN_FILES / "account.html", media_type="text/html")


@router.get("/{name}")
async def account_file(name: str) -> WholeFile:
    """Return what the page loads. Raises `NotFound`."""
    if name not in LOADED:
        raise NotFound
    return WholeFile(OWN_FILES / name)
