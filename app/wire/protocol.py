"""HTTP/1.1 on a connection: uvicorn's protocol over llhttp, made strict about where a request begins and ends (RFC 9112).

A server and a proxy that disagree about that let one client put words into another's mouth. What differs from uvicorn's protocol:

- What cannot be read is refused through the whole application, behind the answers that are still due, so it looks as every other refusal.
- Trailers are no headers. An offer to speak another protocol is ignored, and the body behind it read.
- Heads have a largest size and a longest time, and answers that are not read a longest time as well, also where the connection is closed already.
- Nothing is read on while requests wait that are here already.
- An answer that is given before the request is here whole is the connection's last, and what the client still sends is read before it is closed.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import ClassVar, cast
from urllib.parse import unquote

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.core.exceptions import BadRequest, HeadTooLarge, Refusal, RequestTimeout
from app.middleware.errors import REFUSAL
from app.wire.cycle import Cycle
from app.wire.flow import Flow
from app.wire.head import read_head

# What a head may have, give or take what came in one piece with its beginning.
MOST_HEAD_BYTES = 131_072
# Chunks of one byte take six; what a client spends on their framing beyond that is no honest body.
CHUNK_OVERHEAD = 5
# Requests that wait on one connection for those before them. Who sends more at once would have all others wait while they are read.
MOST_WAITING = 200
# How long, and how much of it, is read of what nobody wants any more.
LINGER_SECONDS, MOST_DISCARDED_BYTES = 10.0, 16_777_216
# The same, where the server is told to stop.
LAST_LINGER_SECONDS = 1.0
# How long a server that is told to stop still waits for bodies, and for answers to be read: well before it would cancel what is at work, which is an error.
LAST_CLIENT_SECONDS = 10.0

# Why the parser gives up, where that is no fault of ours in what it calls.
_OF_THE_CLIENT = (Refusal, httptools.HttpParserError, UnicodeDecodeError, type(None))
_NO_REQUEST = {"method": "", "path": "", "raw_path": b"", "query_string": b""}


class Protocol(HttpToolsProtocol):
    """One connection."""

    # Set to BODY_TIMEOUT by whoever serves: uvicorn makes the protocol, and knows nothing of our settings.
    client_seconds: ClassVar[float] = 30.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it: asyncio names the base of all transports
        """Wait for the first request no longer than for a next one."""
        super().connection_made(transport)
        self.flow = Flow(transport, self.pipeline)
        self._in_head = False
        self._deaf = False
        self._is_stopping = False
        self._running: RequestResponseCycle | None = None
        self._bytes = self._body_bytes = self._discarded = 0
        self._hidden_framing: bytes | None = None
        self._made_up = False
        self._refusal: Refusal | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget all timers."""
        super().connection_lost(exc)
        self.pipeline.clear()
        # uvicorn tells the last request alone; before it, another one may still be at work.
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        self._unset_keepalive_if_required()
        self._set_timer(None)
        self.resume_writing()

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio has it: whether the connection stays open for answers
        """Answer what is here whole to a client that sends no more (RFC 9112, section 9.6: it may only have closed its own half)."""
        if self.cycle is None or self.cycle.response_complete:
            self._hang_up()
            return False
        cast(Cycle, self.cycle).end_body()
        return True

    def shutdown(self) -> None:
        """Stop after the answers that are due."""
        self._is_stopping = True
        super().shutdown()
        self.loop.call_later(LAST_CLIENT_SECONDS, self._stop_waiting)

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that is not used."""
        self._hang_up()

    def on_response_complete(self) -> None:
        """Go on with the next request, if this was not the last one."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._hang_up()

    def pause_writing(self) -> None:
        """Wait for the client to read its answers, which may take as long as sending may."""
        super().pause_writing()
        self._stuck = self.loop.call_later(self.client_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Write on."""
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()

    def data_received(self, data: bytes) -> None:
        """Read on; refuse what cannot be read, and a head that is too large."""
        if self._deaf:
            self._discard(len(data))
            return
        self._bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            if not isinstance(error.__context__, _OF_THE_CLIENT):
                raise
            self._break_off(self._refusal or BadRequest("This cannot be read as an HTTP/1.1 request."))
            return
        if self._in_head:
            if self._bytes > MOST_HEAD_BYTES:
                self._break_off(HeadTooLarge())
            elif self._timer is None:
                self._set_timer(self.client_seconds, self._head_is_late)
        elif self._bytes > MOST_HEAD_BYTES and self._bytes - self._body_bytes > MOST_HEAD_BYTES + CHUNK_OVERHEAD * self._body_bytes:
            self._break_off(HeadTooLarge())

    def _feed(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._read_on()
            else:
                return

    def _read_on(self) -> None:
        """Go on in HTTP behind a head that offers another protocol (RFC 9110, section 7.8: a server may ignore it).

        llhttp takes that for the end of all HTTP, the request's own body included. So another parser reads the rest, and is told in a head of our
        making what the body looks like.
        """
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        framing, self._hidden_framing = self._hidden_framing, None
        if framing is not None:
            self._made_up = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)
            self._made_up = False

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self._made_up:
            return
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._in_head = True
        self._bytes = self._body_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, without the white space around it (RFC 9110, section 5.5), or a trailer, which nobody looks at."""
        self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        """Have the application answer the request, after those before it."""
        if self._made_up:
            return
        self._in_head = False
        if self._timer is not None:
            self._set_timer(None)
        # What comes from now on are trailers: taken for headers, they could say who is calling, from where, and for which tenant.
        headers, self.headers = self.headers, []
        version = self.parser.get_http_version()
        method = self.parser.get_method()
        try:
            expects, framing = read_head(method, version, self.url, headers)
        except Refusal as refusal:
            self._refusal = refusal
            raise
        self._hidden_framing = framing if self.parser.should_upgrade() else None
        url = httptools.parse_url(self.url)
        path = url.path or b"/"
        text = path.decode("ascii")
        self.scope["method"] = method.decode("ascii")
        self.scope["http_version"] = version
        self.scope["path"] = unquote(text) if "%" in text else text
        self.scope["raw_path"] = path
        self.scope["query_string"] = url.query or b""
        self._serve(Cycle(self, keep_alive=version != "1.0" and self.parser.should_keep_alive(), expects=expects))

    def on_body(self, body: bytes) -> None:
        """Hand a part of the body on."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request, unless its body is only hidden."""
        if self._hidden_framing is None:
            super().on_message_complete()

    def _serve(self, cycle: Cycle) -> None:
        # Begun anew where the request before it was answered while this one arrived.
        self._unset_keepalive_if_required()
        before, self.cycle = self.cycle, cycle
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        elif len(self.pipeline) >= MOST_WAITING and REFUSAL not in cycle.scope:
            self._refusal = BadRequest("Too many requests wait on this connection for those before them.")
            self.cycle = before
            raise self._refusal
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _break_off(self, refusal: Refusal) -> None:
        """Refuse what was begun, after the answers that are due, and read no more: nobody knows where a next request would begin."""
        self._deaf = True
        self._set_timer(None)
        if self.cycle is not None and self.cycle.more_body:
            cast(Cycle, self.cycle).break_body()
            return
        super().on_message_begin()
        self.scope.update({**_NO_REQUEST, REFUSAL: refusal})  # type: ignore[typeddict-item]  # ASGI lets servers add keys of their own
        self._serve(Cycle(self, keep_alive=False, expects=False))

    def _head_is_late(self) -> None:
        if self.flow.read_paused:
            # It may be there; the requests before it are what takes long.
            self._set_timer(self.client_seconds, self._head_is_late)
        else:
            self._break_off(RequestTimeout("The head of the request did not arrive in time."))

    def part(self) -> None:
        """Close the connection as soon as the client does, and do so ourselves after a while.

        Closed with something unread in it, it would be reset, and the answer lost on a client that reads none before it has sent all (RFC 9112, section 9.6).
        """
        self._deaf = True
        self.pipeline.clear()
        if not self.transport.is_closing():
            self.transport.write_eof()
            self.flow.resume_reading()
            self._set_timer(LAST_LINGER_SECONDS if self._is_stopping else LINGER_SECONDS, self._hang_up)

    def _discard(self, count: int) -> None:
        self._discarded += count
        if self._discarded > MOST_DISCARDED_BYTES:
            self._hang_up()

    def _hang_up(self) -> None:
        """Close the connection once all is sent, or after a while: the system waits for ever for a client to read."""
        self.transport.close()
        self._set_timer(self.client_seconds, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self.flow.write_paused or self.transport.is_closing():
            self.transport.abort()
        elif self.cycle is not None and self.cycle.more_body:
            cast(Cycle, self.cycle).break_body(HTTPStatus.REQUEST_TIMEOUT)

    def _set_timer(self, seconds: float | None, action: Callable[[], None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None or action is None else self.loop.call_later(seconds, action)
