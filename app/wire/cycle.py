"""A request and its answer on a connection."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from starlette.exceptions import HTTPException
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

if TYPE_CHECKING:
    from app.wire.protocol import Protocol


class Cycle(RequestResponseCycle):
    """A request and its answer."""

    def __init__(self, protocol: "Protocol", *, keep_alive: bool, expects: bool) -> None:
        super().__init__(
            scope=protocol.scope,
            transport=protocol.transport,
            flow=protocol.flow,
            logger=protocol.logger,
            access_logger=protocol.access_logger,
            access_log=protocol.access_log,
            default_headers=protocol.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expects,
            keep_alive=keep_alive,
            on_response=protocol.on_response_complete,
        )
        self._part = protocol.part
        self._broken: int | None = None
        self._ended = False

    def break_body(self, status: int = HTTPStatus.BAD_REQUEST) -> None:
        """Say that the rest of the body cannot be read, and what to answer to whoever tries."""
        self._broken = status
        self.message_event.set()

    def end_body(self) -> None:
        """Say that the client sends no more."""
        self.keep_alive = False
        self._ended = True
        if self.more_body:
            self.break_body()

    async def receive(self) -> Any:
        """Return the next part of the body. Raises `HTTPException`, which FastAPI lets through where it reads a body."""
        if self._broken is not None and not self.response_complete:
            raise HTTPException(self._broken)
        return await super().receive()

    def send(self, message: Any) -> Awaitable[None]:  # type: ignore[override]  # as good as a coroutine to whoever awaits it, and quicker
        """Send a part of the answer."""
        if self.more_body and not self._ended and message["type"] == "http.response.start":
            self.keep_alive = False
            self.transport = cast(asyncio.Transport, _Parting(self.transport, self._part))
        return super().send(message)


class _Parting:
    """A transport to which being closed means to part."""

    def __init__(self, transport: asyncio.Transport, part: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = part
