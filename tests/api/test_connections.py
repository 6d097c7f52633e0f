"""What a connection may hold, how long it may last, and how it ends: one client takes neither the memory nor the places of the others."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest
import uvicorn
from starlette.exceptions import HTTPException
from uvicorn.server import ServerState

from app.wire import protocol as wire
from app.wire.protocol import Protocol
from tests.api.live_server import answers_in
from tests.api.test_segments import Wire, connected, echo
from tests.faults.support import eventually

GET = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n"
# More than the two buffers of a connection that are made as small as can be, and less than what has a server wait before it writes more.
LARGE = 50_000


class Greedy(Wire):
    """A client that sends whenever it may."""

    may_send = True

    def pause_reading(self) -> None:
        self.may_send = False

    def resume_reading(self) -> None:
        self.may_send = True


async def large(scope: Any, receive: Any, send: Any) -> None:
    """Answer with what does not fit into small buffers."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % LARGE)]})
    await send({"type": "http.response.body", "body": b"x" * LARGE})


@asynccontextmanager
async def served(application: Any) -> AsyncIterator[tuple[ServerState, socket.socket]]:
    """Serve an application, and connect to it; both sides have small buffers."""
    loop = asyncio.get_running_loop()
    config = uvicorn.Config(application, access_log=False, log_config=None, lifespan="off", timeout_keep_alive=1)
    config.load()
    state = ServerState()
    with socket.socket() as listening, socket.socket() as client:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.setblocking(False)
        listening.bind(("127.0.0.1", 0))
        server = await loop.create_server(lambda: Protocol(config, state, {}, loop), sock=listening)
        await loop.sock_connect(client, listening.getsockname())
        try:
            yield state, client
        finally:
            server.close()
            for connection in list(state.connections):
                connection.transport.abort()
            await asyncio.sleep(0)


async def all_gone(state: ServerState) -> None:
    """Wait until the server has no connection."""

    async def none() -> bool:
        return not state.connections

    await eventually(none, 5)


async def test_no_more_is_read_than_is_answered() -> None:
    """Each answer that let in a segment would let a client have 50 MB lie here, without as much as logging in."""
    held, most, served_ones = 0, 0, 0

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        nonlocal held, served_ones
        await asyncio.sleep(0)
        await echo(scope, receive, send)
        held -= len(one)
        served_ones += 1

    protocol, _ = connected(slow)
    client = Greedy()
    protocol.connection_made(client)
    one = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b" " * 100_000
    stream = one * 60
    at = 0
    while served_ones < 60:
        if client.may_send and at < len(stream):
            segment = stream[at : at + 250_000]
            at += len(segment)
            held += len(segment)
            most = max(most, held)
            protocol.data_received(segment)
        await asyncio.sleep(0)
    assert most < 600_000
    protocol.connection_lost(None)


@pytest.mark.parametrize("closing", [b"Connection: close\r\n", b""], ids=["closed", "unused"])
@pytest.mark.parametrize("ends_its_half", [False, True])
async def test_a_connection_whose_client_reads_nothing_is_not_kept(monkeypatch: pytest.MonkeyPatch, closing: bytes, ends_its_half: bool) -> None:
    """To close it is not enough: the system would keep what is not sent yet for as long as the client likes."""
    monkeypatch.setattr(Protocol, "client_seconds", 0.2)
    async with served(large) as (state, client):
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + closing + b"\r\n")
        await asyncio.sleep(0.1)
        assert state.connections
        if ends_its_half:
            client.shutdown(socket.SHUT_WR)
        await all_gone(state)


async def test_who_reads_slowly_has_all_of_the_last_answer() -> None:
    async with served(large) as (state, client):
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b""
        while more := await asyncio.get_running_loop().sock_recv(client, 4_096):
            received += more
            await asyncio.sleep(0.005)
        assert len(answers_in(received)[0].body) == LARGE
        await all_gone(state)


async def test_a_request_that_was_begun_before_the_last_answer_is_not_taken_for_an_unused_connection() -> None:
    numbers = count()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep((0.05, 0.3)[next(numbers)])
        await echo(scope, receive, send)

    protocol, written = connected(slow)
    protocol.timeout_keep_alive = 0.1  # type: ignore[assignment]  # uvicorn wants whole seconds, and so would the test take some
    second = GET % 2
    protocol.data_received(GET % 1 + second[:10])
    await asyncio.sleep(0.1)
    protocol.data_received(second[10:])
    await asyncio.sleep(0.3)
    assert not written.closed
    await asyncio.sleep(0.2)
    assert [answer.status for answer in answers_in(written.written)] == [200, 200]
    protocol.connection_lost(None)


async def test_a_server_told_to_stop_waits_for_a_body_no_longer_than_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is still at work when its time is over is cancelled, and logged as an error of ours."""
    monkeypatch.setattr(wire, "LAST_CLIENT_SECONDS", 0.05)
    refused = []

    async def reading(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(HTTPException) as refusal:
            for _ in range(3):
                await receive()
        refused.append(refusal.value.status_code)
        await large(scope, receive, send)

    protocol, written = connected(reading)
    protocol.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
    await asyncio.sleep(0)
    protocol.shutdown()
    await asyncio.sleep(0.2)
    assert refused == [408]
    assert b"connection: close\r\n" in written.written
    protocol.connection_lost(None)


async def test_a_server_told_to_stop_waits_for_no_client_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LAST_CLIENT_SECONDS", 0.1)
    async with served(large) as (state, client):
        client.send(GET % 1 * 5)
        await asyncio.sleep(0.1)
        (connection,) = state.connections
        connection.shutdown()
        await all_gone(state)
