"""What a request may bring: a body of JSON, of at most so many bytes, that is here within so many seconds, and so many query parameters."""

import asyncio
from collections.abc import Awaitable

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.exceptions import BadRequest, ContentTooLarge, Unprocessable, UnsupportedMediaType
from app.middleware.trusted_host import header

LONGEST_LENGTH = 15
# More than any operation knows. A line of a mebibyte has room for half a million, which would take half a second to read, though none is used.
MOST_PARAMETERS = 50


class BodyLimitMiddleware:
    """Refuses a body that is too large before it is read whole, one that is not JSON, one that does not arrive, and very many query parameters."""

    def __init__(self, app: ASGIApp, max_bytes: int, timeout: float) -> None:
        self.app = app
        self._max_bytes = max_bytes
        self._timeout = timeout

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self.app(scope, receive, send)
        if scope["query_string"].count(b"&") >= MOST_PARAMETERS:
            raise Unprocessable(f"There may be {MOST_PARAMETERS} query parameters at most.", location=("query",))
        length = header(scope, b"content-length")
        if not (length or "").strip("0") and header(scope, b"transfer-encoding") is None:
            return self.app(scope, receive, send)
        return self._with_body(length, scope, receive, send)

    async def _with_body(self, length: str | None, scope: Scope, receive: Receive, send: Send) -> None:
        if length is not None and not length.isdecimal():
            raise BadRequest("Content-Length must be a number.")
        if length is not None and (len(length) > LONGEST_LENGTH or int(length) > self._max_bytes):
            raise ContentTooLarge(f"The body may have {self._max_bytes} bytes at most.")
        media_type = (header(scope, b"content-type") or "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise UnsupportedMediaType
        await self.app(scope, self._limited(receive), send)

    def _limited(self, receive: Receive) -> Receive:
        received = 0
        complete = False
        deadline = asyncio.get_running_loop().time() + self._timeout

        async def limited() -> Message:
            nonlocal received, complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                # FastAPI reads the body inside a catch-all that lets only HTTPException through.
                raise HTTPException(408) from None
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > self._max_bytes:
                raise HTTPException(413)
            # No JSON in UTF-8 has this byte; Python would take one that has for UTF-16 or UTF-32.
            if b"\0" in message.get("body", b""):
                raise HTTPException(400)
            return message

        return limited
