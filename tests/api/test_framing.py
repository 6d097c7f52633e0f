"""Where a request begins and ends on the wire: nobody's bytes become another request, and every request has its own answer."""

import json
import signal
import socket
import time
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import pytest

from app.config import Settings
from app.wire.protocol import MOST_WAITING
from tests.api.live_server import Answer, LiveServer, answers_in
from tests.api.test_wire import JSON, head, problem
from tests.api.world import World
from tests.faults.support import environment_of, server_process

CLOSE = b"Connection: close\r\n"
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
LAST = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
WAITED_FOR = b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\n" + JSON + b"Content-Length: 9\r\n\r\n{"
ALIVE = b'{"status":"alive"}'
SEGMENT = 60_000


def new_project() -> tuple[str, bytes]:
    name = uuid4().hex
    return name, json.dumps({"name": name}).encode()


def framed(body: bytes, framing: str) -> tuple[bytes, bytes]:
    """Return the header that announces the body, and the body as it travels."""
    if framing == "length":
        return b"Content-Length: %d\r\n" % len(body), body
    return b"Transfer-Encoding: chunked\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def statuses(answers: list[Answer]) -> list[int]:
    return [answer.status for answer in answers]


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("cuts", [(), (0,), (0, 7), (7,), (-1,)], ids=str)
def test_a_body_behind_an_offer_to_speak_another_protocol_is_read(live_server: LiveServer, world: World, framing: str, cuts: tuple[int, ...]) -> None:
    name, body = new_project()
    header, sent = framed(body, framing)
    start = head(b"POST", b"/api/v1/projects", world, JSON + UPGRADE + header)
    edges = [0, *(len(start) + (cut % len(sent)) for cut in cuts), len(start + sent)]
    parts = [(start + sent)[begin:end] for begin, end in pairwise(edges)]
    created, alive = live_server.exchange(*parts[:-1], parts[-1] + LAST)
    assert (created.status, json.loads(created.body)["name"], alive.body) == (201, name, ALIVE)


@pytest.mark.parametrize("pause", [b"", b"cut"])
def test_a_body_behind_such_an_offer_is_no_request(live_server: LiveServer, world: World, pause: bytes) -> None:
    """The smuggled request would be answered with the list of users."""
    smuggled = head(b"GET", b"/api/v1/users", world)
    start = head(b"POST", b"/api/v1/projects", world, JSON + UPGRADE + b"Content-Length: %d\r\n" % len(smuggled))
    parts = (start, smuggled + LAST) if pause else (start + smuggled + LAST,)
    refused, alive = live_server.exchange(*parts)
    problem(refused, 400 if refused.status == 400 else 422, json.loads(refused.body)["code"])
    assert alive.body == ALIVE


def test_requests_behind_such_an_offer_are_each_answered(live_server: LiveServer, world: World) -> None:
    offers = head(b"GET", b"/api/v1/tenant", world, UPGRADE) * 3
    assert statuses(live_server.exchange(offers + LAST)) == [200] * 4


@pytest.mark.parametrize("offer", [b"", b"Connection: Upgrade\r\nUpgrade: x\r\n"])
def test_who_sends_very_many_requests_at_once_is_answered_some_and_refused_the_rest(live_server: LiveServer, offer: bytes) -> None:
    """Read all at once, they would hold up everybody else: 13,000 fit into a segment, and take a fifth of a second."""
    *answered, refused = live_server.exchange((b"GET /health/live HTTP/1.1\r\nHost: x\r\n" + offer + b"\r\n") * 2_000)
    assert {answer.body for answer in answered} == {ALIVE}
    assert MOST_WAITING <= len(answered) <= MOST_WAITING + 1
    problem(refused, 400, "bad_request")


def test_connect_is_refused_and_what_is_behind_it_no_request(live_server: LiveServer) -> None:
    for target in (b"localhost:443", b"/api/v1/tenant"):
        answers = live_server.exchange(b"CONNECT " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n" + LAST)
        assert statuses(answers) == [400]
        problem(answers[0], 400, "bad_request")


@pytest.mark.parametrize(
    "trailer", ["Authorization: Bearer x", "X-Tenant-Slug: no-such-tenant", "Host: evil.example", "X-Request-ID: trailing", "Expect: 100-continue"]
)
def test_a_trailer_is_no_header(live_server: LiveServer, world: World, trailer: str) -> None:
    """RFC 9110, section 6.5.1: a server may discard trailers, and must not take those for headers that say who is asking, and for what."""
    _, body = new_project()
    sent = b"%x\r\n%b\r\n0\r\n%b\r\n\r\n" % (len(body), body, trailer.encode())
    start = head(b"POST", b"/api/v1/projects", world, JSON + CLOSE + b"Transfer-Encoding: chunked\r\n")
    for parts in ((start + sent,), (start, sent), (start + sent[:-4], sent[-4:])):
        (answer,) = live_server.exchange(*parts)
        assert answer.status == 201, answer
        assert answer.headers["x-request-id"] != "trailing"


def test_trailers_without_end_are_refused(live_server: LiveServer, world: World) -> None:
    start = head(b"POST", b"/api/v1/projects", world, JSON + b"Transfer-Encoding: chunked\r\n") + b"2\r\n{}\r\n0\r\n"
    problem(live_server.stream([start, *[b"X-Trailer: " + b"x" * 1_000 + b"\r\n"] * 1_000])[0], 400, "bad_request")


def test_extensions_of_chunks_without_end_are_refused(live_server: LiveServer, world: World) -> None:
    start = head(b"POST", b"/api/v1/projects", world, JSON + b"Transfer-Encoding: chunked\r\n")
    problem(live_server.stream([start, b"1;", *[b"x" * 1_000] * 1_000])[0], 400, "bad_request")


def test_a_body_in_chunks_of_one_byte_is_read(live_server: LiveServer, world: World) -> None:
    body = json.dumps({"name": uuid4().hex, "description": "x" * 4_000}).encode() + b" " * 150_000
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    start = head(b"POST", b"/api/v1/projects", world, JSON + CLOSE + b"Transfer-Encoding: chunked\r\n")
    answer, _ = live_server.stream([start, *(chunks[at : at + SEGMENT] for at in range(0, len(chunks), SEGMENT))])
    assert answer.status == 201, answer


def test_what_cannot_be_read_is_refused_after_the_answers_that_are_due(live_server: LiveServer, world: World) -> None:
    _, body = new_project()
    request = head(b"POST", b"/api/v1/projects", world, JSON + b"Content-Length: %d\r\n" % len(body)) + body
    for parts in ((request + b"\0\0\0\0\r\n\r\n",), (request, b"\0\0\0\0\r\n\r\n"), (request + request + b"nonsense\r\n\r\n",)):
        *created, refused = live_server.exchange(*parts)
        assert {answer.status for answer in created} == {201}
        assert len(created) == parts[0].count(b"POST")
        problem(refused, 400, "bad_request")
        assert refused.headers["connection"] == "close"


@pytest.mark.parametrize("path", [b"/api/v1/projects", b"/api/v1/nowhere"])
def test_a_body_that_breaks_off_into_nonsense_is_answered_once(live_server: LiveServer, world: World, path: bytes) -> None:
    start = head(b"POST", path, world, JSON + b"Transfer-Encoding: chunked\r\n")
    for before in (b"", head(b"GET", b"/api/v1/tenant", world)):
        for parts in ((before + start + b"2\r\n{}\r\nzz\r\n",), (before + start, b"2\r\n{}", b"\r\nzz\r\n")):
            *first, answer = live_server.exchange(*parts, LAST)
            assert statuses(first) == [200] * before.count(b"GET")
            assert answer.status in (400, 404)
            assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (b"/api/v1/projects", JSON + b"Content-Length: 10000000\r\n", 413),
        (b"/api/v1/projects", b"Content-Type: text/plain\r\nContent-Length: 10\r\n", 415),
        (b"/api/v1/nowhere", JSON + b"Content-Length: 10\r\n", 404),
        (b"/health", JSON + b"Content-Length: 10\r\n", 405),
        (b"/api/v1/projects", b"Host: other.example\r\n" + JSON + b"Content-Length: 10\r\n", 400),
    ],
)
def test_a_refused_expectation_ends_the_connection(live_server: LiveServer, world: World, path: bytes, headers: bytes, status: int) -> None:
    """RFC 9110, section 10.1.1: whether the body comes nevertheless nobody knows, so what comes must not be taken for a request."""
    (answer,) = live_server.exchange(head(b"POST", path, world, headers + b"Expect: 100-continue\r\n"), LAST)
    assert (answer.status, answer.headers["connection"]) == (status, "close")


def test_an_expectation_is_met(live_server: LiveServer, world: World) -> None:
    _, body = new_project()
    start = head(b"POST", b"/api/v1/projects", world, JSON + b"Expect: 100-continue\r\nContent-Length: %d\r\n" % len(body))
    assert statuses(live_server.exchange(start, body, LAST)) == [100, 201, 200]
    assert statuses(live_server.exchange(start.replace(b"HTTP/1.1", b"HTTP/1.0"), body)) == [201]


def test_a_body_that_came_late_is_no_request(live_server: LiveServer, world: World) -> None:
    (answer,) = live_server.exchange(head(b"POST", b"/api/v1/projects", world, JSON + b"Content-Length: 500\r\n"), b'{"na', LAST, pause=1.2)
    problem(answer, 408, "request_timeout")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(
    ("path", "media_type"), [(b"/api/v1/projects", b"text/plain"), (b"/api/v1/nowhere", b"application/json"), (b"/health", b"application/json")]
)
def test_who_sends_all_before_it_reads_is_answered(live_server: LiveServer, world: World, version: bytes, framing: str, path: bytes, media_type: bytes) -> None:
    """Closed with something unread in it, the connection would be reset, and the answer thrown away by the client's own system."""
    if (version, framing) == (b"1.0", "chunked"):
        pytest.skip("HTTP/1.0 has no chunks")
    header, sent = framed(b" " * 900_000, framing)
    start = head(b"POST", path, world, CLOSE + b"Content-Type: " + media_type + b"\r\n" + header, version)
    parts = [sent[at : at + SEGMENT] for at in range(0, len(sent), SEGMENT)]
    (answer,) = live_server.exchange(start, *parts, pause=0.005)
    assert answer.status in (404, 405, 415)


def test_what_is_read_for_nothing_has_an_end(live_server: LiveServer, world: World) -> None:
    start = head(b"POST", b"/api/v1/projects", world, JSON + b"Content-Length: 99999999999\r\n")
    answer, sent = live_server.stream([start, *[b" " * 1_000_000] * 200])
    assert answer.status == 413
    assert sent < 100_000_000


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX: ",
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 40_000,
        b"GET /health/live?",
    ],
    ids=["value", "lines", "path"],
)
def test_a_head_without_end_is_refused(live_server: LiveServer, beginning: bytes) -> None:
    answer, sent = live_server.stream([beginning, *[b"x" * 10_000] * 6_000])
    problem(answer, 431, "headers_too_large")
    assert sent < 40_000_000


def test_very_many_header_lines_are_refused(live_server: LiveServer) -> None:
    problem(live_server.send(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 300 + b"\r\n"), 431, "headers_too_large")


@pytest.mark.parametrize("before", [b"", LAST.replace(b"Connection: close\r\n", b"")], ids=["first", "next"])
def test_a_head_that_does_not_come_is_waited_for_no_longer_than_said(live_server: LiveServer, before: bytes) -> None:
    answers = live_server.exchange(before + b"GET /health/live HTT", b"P/1.1\r\nHost: ", b"loc", pause=0.6)
    assert statuses(answers) == [*([200] if before else []), 408]
    problem(answers[-1], 408, "request_timeout")


def test_a_head_that_waits_behind_a_slow_request_is_not_late(live_server: LiveServer, world: World) -> None:
    """Of three requests in one segment, the server reads no further while the first waits for its body: which takes longer than a head may."""
    _, body = new_project()
    first = head(b"GET", b"/api/v1/tenant", world)
    slow = head(b"POST", b"/api/v1/projects", world, JSON + b"Content-Length: %d\r\n" % len(body))
    answers = live_server.exchange(first + slow, body[:-1], body[-1:] + LAST[:-4], LAST[-4:], pause=0.4)
    assert statuses(answers) == [200, 201, 200]


def test_who_does_not_read_its_answers_is_hung_up_on(live_server: LiveServer) -> None:
    asked = 200
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect(("127.0.0.1", live_server.port))
        connection.settimeout(20)
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * asked)
        time.sleep(2.5)
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert received.count(b"HTTP/1.1 200 OK") < asked


@pytest.mark.parametrize("length", [b"%d ", b" \t%d\t "])
def test_white_space_around_a_length_means_nothing(live_server: LiveServer, world: World, length: bytes) -> None:
    _, body = new_project()
    start = head(b"POST", b"/api/v1/projects", world, JSON + b"Content-Length: " + length % len(body) + b"\r\n")
    assert statuses(live_server.exchange(start + body + LAST)) == [201, 200]


def test_a_length_of_several_noughts_is_none(live_server: LiveServer, world: World) -> None:
    assert statuses(live_server.exchange(head(b"GET", b"/api/v1/tenant", world, b"Content-Length: 00\r\n") + LAST)) == [200, 200]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /api/v1/projects HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/v1/projects HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/v1/projects HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST /api/v1/projects HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/v1/projects HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/v1/projects HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/v1/projects HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        b"GET /health/live HTTP/2.0\r\nHost: localhost\r\n\r\n",
        b"GET /health/live HTTP/0.9\r\nHost: localhost\r\n\r\n",
        b"GET http://evil.example/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://localhost@evil.example/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET ftp://localhost/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n X-Folded: 1\r\n\r\n",
    ],
    ids=lambda request_bytes: repr(request_bytes[:90]),
)
def test_what_two_servers_might_read_in_two_ways_is_refused_and_ends_the_connection(live_server: LiveServer, request_bytes: bytes) -> None:
    (answer,) = live_server.exchange(request_bytes + LAST)
    problem(answer, 400, "bad_request")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("target", [b"http://localhost/health/live", b"HTTP://LocalHost/health/live", b"https://localhost/health/live?"])
def test_a_target_may_name_the_host_as_well(live_server: LiveServer, target: bytes) -> None:
    """RFC 9112, section 3.2.2: a server must accept it, though only proxies are asked so."""
    (answer,) = live_server.exchange(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.body == ALIVE


def test_a_target_without_a_path_means_the_root(live_server: LiveServer) -> None:
    (answer,) = live_server.exchange(b"GET http://localhost HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert (answer.status, answer.headers["location"]) == (307, "docs")


def test_a_connection_is_kept_for_longer_than_load_balancers_keep_it(live_server: LiveServer) -> None:
    with socket.create_connection(("127.0.0.1", live_server.port), timeout=20) as connection:
        connection.sendall(LAST.replace(b"Connection: close\r\n", b""))
        time.sleep(6)
        connection.sendall(LAST)
        assert len(answers_in(b"".join(iter(lambda: connection.recv(65_536), b"")))) == 2


@pytest.mark.parametrize("closing", [CLOSE, b"Connection: Upgrade, close\r\nUpgrade: x\r\n", b"Connection: keep-alive, CLOSE\r\n"])
def test_nothing_is_done_behind_the_request_that_closes(live_server: LiveServer, world: World, closing: bytes) -> None:
    name, body = new_project()
    second = head(b"POST", b"/api/v1/projects", world, JSON + b"Content-Length: %d\r\n" % len(body)) + body
    assert statuses(live_server.exchange(head(b"GET", b"/api/v1/tenant", world, closing) + second)) == [200]
    answer = live_server.send(head(b"GET", b"/api/v1/projects?q=" + name.encode(), world))
    assert json.loads(answer.body)["items"] == []


@pytest.mark.parametrize(
    ("rest", "more"),
    [
        (b"", []),
        (b"GET /hea", []),
        (b"\0\0\r\n\r\n", [400]),
        (b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\n" + JSON + b"Content-Length: 9\r\n\r\n{", [400]),
        (b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\n" + JSON + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", [400]),
    ],
    ids=["whole", "head", "nonsense", "length", "chunked"],
)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_who_sends_no_more_is_answered(live_server: LiveServer, world: World, count: int, rest: bytes, more: list[int]) -> None:
    """As `nc -N` does, and programs that write a request and close their half. What is not whole takes no answer from what is, and is never acted on."""
    with socket.create_connection(("127.0.0.1", live_server.port), timeout=20) as connection:
        connection.sendall(head(b"GET", b"/api/v1/tenant", world) * count + rest)
        connection.shutdown(socket.SHUT_WR)
        started = time.monotonic()
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert statuses(answers_in(received)) == [200] * count + more
    assert time.monotonic() - started < 5


def test_a_server_told_to_stop_waits_for_nobody_who_sends_nothing(settings: Settings, tmp_path: Path) -> None:
    beginnings = [
        b"",
        b"GET /he",
        b"\0\0",
        b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
        WAITED_FOR,
    ]
    with server_process(tmp_path, environment_of(settings, body_timeout=3)) as server:
        open_ones = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in beginnings]
        for connection, beginning in zip(open_ones, beginnings, strict=True):
            connection.sendall(beginning)
        time.sleep(0.3)
        stopped = time.monotonic()
        server.send(signal.SIGTERM)
        assert server.wait() == 0
        assert time.monotonic() - stopped < 8
        assert "Traceback" not in server.output
        for connection in open_ones:
            connection.close()
