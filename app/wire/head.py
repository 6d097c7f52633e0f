"""The head of a request: what one server might read in another way than the next one is refused (RFC 9112)."""

import re
from typing import NamedTuple

from app.core.exceptions import BadRequest, HeadTooLarge

MOST_HEADER_LINES = 200

_LOOKED_AT = frozenset({b"host", b"transfer-encoding", b"content-length", b"expect"})
_AUTHORITY = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)


class Head(NamedTuple):
    """Whether the client waits for "100 Continue", and the header that says where the body ends: None where there is no body."""

    expects: bool
    framing: bytes | None


def read_head(method: bytes, version: str, url: bytes, headers: list[tuple[bytes, bytes]]) -> Head:
    """Look at a head. Raises `BadRequest`, `HeadTooLarge`."""
    if len(headers) > MOST_HEADER_LINES:
        raise HeadTooLarge
    if method == b"CONNECT" or version not in ("1.1", "1.0"):
        raise BadRequest("This service speaks HTTP/1.1 and HTTP/1.0, and is no proxy.")
    expects, framing = False, None
    for name, value in headers:
        if name not in _LOOKED_AT:
            continue
        if name == b"host":
            if not url.startswith((b"/", b"*")) and not _names(url, value):
                raise BadRequest("The request's target and its Host header must name the same host.")
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked" or version == "1.0":
                raise BadRequest("The only transfer coding that is understood is `chunked`, in HTTP/1.1.")
            framing = b"Transfer-Encoding: chunked"
        elif name == b"content-length":
            framing = b"Content-Length: %b" % value if value.strip(b"0") else None
        else:
            # RFC 9110, section 10.1.1: from HTTP/1.0, it means nothing.
            expects = value.lower() == b"100-continue" and version == "1.1"
    return Head(expects, framing)


def _names(url: bytes, host: bytes) -> bool:
    """Whether the target is in absolute form (section 3.2.2), as proxies are asked, and names that host."""
    found = _AUTHORITY.match(url)
    return found is not None and found[1].lower() == host.lower()
