"""What only shows on the wire, against the service as a process of its own."""

import json
import socket
import time
from collections.abc import Iterator

import pytest

from tests.api.live_server import Answer, LiveServer
from tests.api.world import World

JSON = b"Content-Type: application/json\r\n"
MEGABYTE = 1_000_000
CHUNK = b"10000\r\n" + b" " * 0x10000 + b"\r\n"


def head(method: bytes, path: bytes, world: World, more: bytes = b"", version: bytes = b"1.1") -> bytes:
    """Return the head of a request of an admin."""
    headers = "".join(f"{name}: {value}\r\n" for name, value in world.admin.headers.items()).encode()
    return method + b" " + path + b" HTTP/" + version + b"\r\nHost: localhost\r\n" + headers + more + b"\r\n"


def problem(answer: Answer, status: int, code: str) -> None:
    """Check that the answer is a problem document with everything that each has."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    document = json.loads(answer.body)
    assert (document["status"], document["code"]) == (status, code)
    assert document["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "x-process-time" in answer.headers


def serves(server: LiveServer, world: World) -> bool:
    """Whether the server still answers as it should."""
    return server.send(head(b"GET", b"/api/v1/tenant", world)).status == 200


def test_a_body_that_does_not_come_is_waited_for_no_longer_than_said(live_server: LiveServer, world: World) -> None:
    started = time.monotonic()
    for framing in (b"Content-Length: 100\r\n", b"Transfer-Encoding: chunked\r\n"):
        for beginning in (b"", b'{"na' if b"Length" in framing else b'4\r\n{"na\r\n'):
            answer = live_server.send(head(b"POST", b"/api/v1/projects", world, JSON + framing) + beginning)
            problem(answer, 408, "request_timeout")
    assert 3 < time.monotonic() - started < 30


def test_a_body_that_trickles_in_is_given_no_more_time(live_server: LiveServer, world: World) -> None:
    def trickle() -> Iterator[bytes]:
        yield head(b"POST", b"/api/v1/projects", world, JSON + b"Content-Length: 1000\r\n")
        for _ in range(12):
            time.sleep(0.2)
            yield b" "

    answer, _ = live_server.stream(trickle())
    problem(answer, 408, "request_timeout")


def test_ten_megabytes_that_are_announced_are_refused_before_they_come(live_server: LiveServer, world: World) -> None:
    answer = live_server.send(head(b"POST", b"/api/v1/projects", world, JSON + b"Content-Length: 10000000\r\n"))
    problem(answer, 413, "content_too_large")


def test_who_sends_ten_megabytes_before_it_reads_is_told_why_they_were_refused(live_server: LiveServer, world: World) -> None:
    body = b" " * 10_000_000
    request = head(b"POST", b"/api/v1/projects", world, b"Connection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(body))
    with socket.create_connection(("127.0.0.1", live_server.port), timeout=20) as connection:
        connection.sendall(request + body)
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"content_too_large"' in received
    assert serves(live_server, world)


def test_a_request_without_a_host_is_refused(live_server: LiveServer) -> None:
    """RFC 9112, section 3.2."""
    with socket.create_connection(("127.0.0.1", live_server.port), timeout=20) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert received.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"ambiguous_header"' in received


def test_ten_megabytes_in_chunks_are_refused_on_the_way(live_server: LiveServer, world: World) -> None:
    parts = [head(b"POST", b"/api/v1/projects", world, JSON + b"Transfer-Encoding: chunked\r\n"), *[CHUNK] * 160]
    answer, _ = live_server.stream(parts)
    problem(answer, 413, "content_too_large")
    assert serves(live_server, world)


def test_a_token_of_100_kilobytes_is_refused(live_server: LiveServer, world: World) -> None:
    headers = f"Host: localhost\r\nX-Tenant-Slug: {world.tenant.slug}\r\nAuthorization: Bearer {'x' * 100_000}\r\n\r\n"
    problem(live_server.send(b"GET /api/v1/tenant HTTP/1.1\r\n" + headers.encode()), 401, "token_invalid")


def test_http_1_0_is_answered(live_server: LiveServer, world: World) -> None:
    assert live_server.send(head(b"GET", b"/api/v1/tenant", world, version=b"1.0")).status == 200
    assert live_server.send(b"GET /health/live HTTP/1.0\r\n\r\n").status == 200


@pytest.mark.parametrize(
    "host", [b"", b"[", b"[::1", b"a b", b"\xff", b"localhost:99999", b"localhost:x", b"@", b"http://localhost", b"x" * 10_000, b"a,b", b"..."]
)
def test_a_bad_host_is_no_server_error(live_server: LiveServer, world: World, host: bytes) -> None:
    answer = live_server.send(b"GET /api/v1/tenant HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert 400 <= answer.status < 500, answer
    answer = live_server.send(b"GET /docs HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert answer.status < 500, answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /api/v1/\0tenant HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /api/v1/tenant\0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"GET /api/v1/tenant\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"G\xc3\xa9T / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
        b"GET \xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /api/v1/caf\xc3\xa9 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /api/v1/projects HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"POST /api/v1/projects HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/v1/projects HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 5_000 + b"\r\n\r\n",
        b"POST /api/v1/projects HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /api/v1/projects HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/v1/projects HTTP/1.1\r\nHost: localhost\r\n" + JSON + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /api/v1/projects HTTP/1.1\r\nHost: localhost\r\n" + JSON + b"Transfer-Encoding: gzip\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET http://evil.example/api/v1/tenant HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET api/v1/tenant HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /%zz%0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=lambda request_bytes: repr(request_bytes[:60]),
)
def test_what_is_no_http_request_of_ours_is_the_client_s_fault(live_server: LiveServer, world: World, request_bytes: bytes) -> None:
    try:
        answer = live_server.send(request_bytes, timeout=20)
    except (ConnectionError, TimeoutError):
        pass  # Hung up on, or still waited for: no answer is no server error.
    else:
        assert 400 <= answer.status < 500, answer
        problem(answer, answer.status, json.loads(answer.body)["code"])
    assert serves(live_server, world)


@pytest.mark.parametrize(
    "path",
    [
        b"/health",
        b"/docs",
        b"/docs/assets/docs.js",
        b"/api/v1/projects",
        b"/nowhere",
        # Refused by what they lead to, and by what stands before it.
        b"/api/v1/projects/0190a1b2-0000-7000-8000-000000000000",
        b"/api/v1/projects/none",
        b"/api/v1/projects?nope=1",
        b"/api/v1/projects?" + b"&" * 60,
    ],
)
def test_the_connection_outlives_head(live_server: LiveServer, world: World, path: bytes) -> None:
    """The answer to the GET behind it comes next on the same connection: there is no body in between, and nobody hung up."""
    with socket.create_connection(("127.0.0.1", live_server.port), timeout=20) as connection:
        connection.sendall(head(b"HEAD", path, world) + head(b"GET", b"/health/live", world, b"Connection: close\r\n"))
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert received.partition(b"\r\n\r\n")[2].startswith(b"HTTP/1.1 200 OK\r\n")
    assert received.endswith(b'{"status":"alive"}')


def test_an_offer_to_speak_websocket_is_answered_in_http(live_server: LiveServer, world: World) -> None:
    """RFC 9110, section 7.8: a server may ignore Upgrade. One that took it up would go past the middleware."""
    upgrade = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n"
    assert live_server.send(head(b"GET", b"/api/v1/tenant", world, upgrade)).status == 200
    problem(live_server.send(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n" + upgrade + b"\r\n"), 404, "not_found")


def test_a_client_that_hangs_up_halfway_harms_nobody(live_server: LiveServer, world: World) -> None:
    for beginning in (b"", b'{"name":'):
        with pytest.raises((ConnectionError, TimeoutError)):
            live_server.send(head(b"POST", b"/api/v1/projects", world, JSON + b"Content-Length: 100\r\n") + beginning, timeout=0.05)
    assert serves(live_server, world)
