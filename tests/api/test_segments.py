"""However the network cuts what a client sends into segments, the same requests come out of it, each with its own body and its own answer."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest
import uvicorn
from httptools import HttpParserCallbackError
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from app.wire.protocol import Protocol

BODIES = st.binary(max_size=40) | st.just(b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
OFFER = b"Connection: upgrade\r\nUpgrade: h2c\r\n"


class Wire(asyncio.Transport):
    """A connection that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        """The same as to close it."""

    def write_eof(self) -> None:
        """Nothing more is written after that."""

    def close(self) -> None:
        """Nothing more is written after that."""
        self.closed = True

    def pause_reading(self) -> None:
        """The test looks after that itself."""

    def resume_reading(self) -> None:
        """The same."""


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with what arrived, and how many headers."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    seen = b"%b %d %b;" % (scope["path"].encode(), len(scope["headers"]), body.hex().encode())
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(seen))]})
    await send({"type": "http.response.body", "body": seen})


@st.composite
def requests(draw: st.DrawFn) -> list[tuple[bytes, bytes]]:
    """Return requests as they travel, each with what `echo` says to it."""
    made = []
    for number in range(draw(st.integers(1, 4))):
        headers = b"Host: x\r\n" + draw(st.sampled_from([b"", OFFER]))
        body = draw(BODIES)
        framing = draw(st.sampled_from(["none", "length", "chunked", "trailers"]))
        sent = b""
        if framing == "none":
            body = b""
        elif framing == "length":
            headers, sent = headers + b"Content-Length: %d\r\n" % len(body), body
        else:
            cut = draw(st.integers(0, len(body)))
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (body[:cut], body[cut:]) if chunk)
            trailers = b"Host: trailing\r\nX: y\r\n" if framing == "trailers" else b""
            headers, sent = headers + b"Transfer-Encoding: chunked\r\n", chunks + b"0\r\n" + trailers + b"\r\n"
        path = b"/%d" % number
        made.append((b"POST " + path + b" HTTP/1.1\r\n" + headers + b"\r\n" + sent, b"%b %d %b;" % (path, headers.count(b"\r\n"), body.hex().encode())))
    return made


def connected(application: Any) -> tuple[Protocol, Wire]:
    """Return a connection to an application."""
    config = uvicorn.Config(application, access_log=False, log_config=None, lifespan="off")
    config.load()
    wire = Wire()
    protocol = Protocol(config, ServerState(), {}, asyncio.get_running_loop())
    protocol.connection_made(wire)
    return protocol, wire


async def answers_to(segments: list[bytes]) -> bytes:
    """Return the bodies of all answers to what comes in these segments, one behind the other."""
    protocol, wire = connected(echo)
    for segment in segments:
        protocol.data_received(segment)
        for _ in range(12):
            await asyncio.sleep(0)
    for _ in range(60):
        await asyncio.sleep(0)
    protocol.connection_lost(None)
    return b"".join(answer.partition(b"\r\n\r\n")[2] for answer in wire.written.split(b"HTTP/1.1 200 OK\r\n"))


@settings(max_examples=500, deadline=None)
@given(requests(), st.lists(st.integers(0, 1_000), max_size=12))
def test_segments_mean_nothing(made: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    stream = b"".join(sent for sent, _ in made)
    edges = [0, *sorted(cut % len(stream) for cut in cuts), len(stream)]
    segments = [stream[begin:end] for begin, end in pairwise(edges) if end > begin]
    assert asyncio.run(answers_to(segments)) == b"".join(said for _, said in made)


@pytest.mark.parametrize("waiting", [0, 1, 3])
async def test_whoever_left_is_not_written_to_and_nothing_more_is_done(waiting: int) -> None:
    """A write to what is closed is an error, that would be logged as ours."""
    goes_on, begun = asyncio.Event(), []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        begun.append(scope["path"])
        await goes_on.wait()
        await echo(scope, receive, send)

    protocol, wire = connected(slow)
    protocol.data_received(b"GET /0 HTTP/1.1\r\nHost: x\r\n\r\n" * (1 + waiting))
    await asyncio.sleep(0)
    protocol.connection_lost(ConnectionResetError())
    goes_on.set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert (wire.written, begun) == (b"", ["/0"])


async def test_a_request_whose_head_came_in_two_parts_around_an_answer_is_not_taken_for_idle() -> None:
    goes_on = asyncio.Event()

    async def slow_from_the_second_on(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/0":
            await goes_on.wait()
        await echo(scope, receive, send)

    protocol, wire = connected(slow_from_the_second_on)
    protocol.data_received(b"GET /0 HTTP/1.1\r\nHost: x\r\n\r\nGET /1 HTTP/1.1\r\nHost: ")
    for _ in range(5):
        await asyncio.sleep(0)
    assert b"/0" in wire.written
    protocol.data_received(b"x\r\n\r\n")
    assert protocol.timeout_keep_alive_task is None
    goes_on.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert b"/1" in wire.written
    protocol.connection_lost(None)


async def test_a_fault_of_ours_is_not_told_to_be_the_client_s(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(*_: object) -> None:
        raise ZeroDivisionError

    protocol, wire = connected(echo)
    monkeypatch.setattr("app.wire.protocol.read_head", faulty)
    with pytest.raises(HttpParserCallbackError) as raised:
        protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert isinstance(raised.value.__context__, ZeroDivisionError)
    assert wire.written == b""
    protocol.connection_lost(None)
