"""What the load generator counts, and that it is not fooled by bad answers."""

import pytest

from benchmarks.load import CONNECTIONS, Load, ask_each_once, ask_for
from tests.benchmarks.servers import ok, server

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def test_every_request_is_asked_once() -> None:
    with server(lambda _: ok(b"x" * 100)) as port:
        outcome = ask_each_once(Load(port, [REQUEST] * 100, 100, 100))
    assert len(outcome.latencies) == 100
    assert not outcome.failures


def test_it_asks_until_the_time_is_up() -> None:
    with server(lambda _: ok(b"x" * 100)) as port:
        outcome = ask_for(0.2, Load(port, [REQUEST], 100, 100))
    assert outcome.seconds >= 0.2
    assert len(outcome.latencies) > CONNECTIONS
    assert sum(outcome.latencies) <= outcome.seconds * CONNECTIONS
    assert not outcome.failures


def test_an_answer_that_is_not_200_is_a_failure() -> None:
    with server(lambda n: ok(b"x" * 100, b"429 Too Many Requests") if n % 4 == 0 else ok(b"x" * 100)) as port:
        outcome = ask_each_once(Load(port, [REQUEST] * 100, 100, 100))
    assert outcome.failures == {"429": 25}


@pytest.mark.parametrize("size", [99, 201])
def test_an_answer_of_another_size_than_expected_is_a_failure(size: int) -> None:
    with server(lambda _: ok(b"x" * size)) as port:
        outcome = ask_each_once(Load(port, [REQUEST] * 40, 100, 200))
    assert outcome.failures == {f"{size} bytes": 40}


def test_a_connection_that_the_server_breaks_off_is_a_failure_and_ends_nothing_else() -> None:
    with server(lambda n: None if n == 50 else ok(b"x" * 100)) as port:
        outcome = ask_each_once(Load(port, [REQUEST] * 200, 100, 100))
    assert outcome.failures == {"connection lost": 1}
    assert len(outcome.latencies) == 199


def test_an_answer_without_a_length_is_a_failure() -> None:
    with server(lambda _: b"HTTP/1.1 200 OK\r\n\r\nhello") as port:
        outcome = ask_each_once(Load(port, [REQUEST] * 200, 1, 100))
    assert outcome.failures == {"connection lost": CONNECTIONS}
    assert not outcome.latencies
