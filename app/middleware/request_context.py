"""The outermost middleware: gives each request an identifier, times it, logs one line, counts it, and adds the headers that others asked for."""

import re
from collections.abc import Awaitable
from contextvars import Token
from functools import cache
from random import getrandbits
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.middleware.trusted_host import HEALTH_PATHS, header
from app.utils import metrics
from app.utils.logging import log_request, request_state

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")


def add_headers(scope: Scope, headers: dict[str, str]) -> None:
    """Have headers added to the response, whoever makes it."""
    scope["state"]["response_headers"] += [(_encoded_name(name), value.encode("latin-1")) for name, value in headers.items()]


@cache
def _encoded_name(name: str) -> bytes:
    return name.lower().encode("latin-1")


class RequestContextMiddleware:
    """Opens and closes what belongs to one request."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = perf_counter()
        state: dict[str, Any] = scope.setdefault("state", {})
        request_id = state["request_id"] = _request_id(scope)
        state["response_begun"] = False
        state["response_headers"] = [(b"x-request-id", request_id.encode())]
        status = 500

        def send_with_headers(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                state["response_begun"] = True
                seconds = perf_counter() - started
                timing = [(b"x-process-time", b"%.6f" % seconds), (b"server-timing", b"app;dur=%.3f" % (seconds * 1000))]
                message["headers"] = [*message["headers"], *state["response_headers"], *timing]
            return send(message)

        token: Token[Any] = request_state.set(state)
        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            _record(scope, status, perf_counter() - started)
            request_state.reset(token)


def new_request_id() -> str:
    """Return 128 random bits, in hexadecimal. Nobody has to be kept from guessing them, so they are not the kernel's, which is a call to it."""
    return f"{getrandbits(128):032x}"


def _request_id(scope: Scope) -> str:
    sent = header(scope, b"x-request-id")
    return sent if sent is not None and _REQUEST_ID.match(sent) else new_request_id()


def _record(scope: Scope, status: int, seconds: float) -> None:
    # The route's pattern, not the path: a path would make a series of its own for every identifier.
    route = scope["route"].path if "route" in scope and status != 405 else "(none)"
    metrics.REQUESTS.observe(scope["method"] if route != "(none)" else "(any)", route, status, seconds)
    if scope["path"] not in HEALTH_PATHS:
        log_request(scope["method"], scope["path"], status, round(seconds * 1000, 3))
