"""Servers that answer in a way that a test chooses."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Answer = Callable[[int], bytes | None]


@contextmanager
def server(answer: Answer) -> Iterator[int]:
    """Run a server that answers its n-th request with `answer(n)`, in two pieces, and hangs up at None. Gives its port."""
    counter = iter(range(1_000_000))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, lambda: answer(next(counter))), daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def ok(body: bytes, status: bytes = b"200 OK") -> bytes:
    """Return a whole answer."""
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


def _accept(listener: socket.socket, answer: Callable[[], bytes | None]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(connection, answer), daemon=True).start()


def _serve(connection: socket.socket, answer: Callable[[], bytes | None]) -> None:
    # The client may hang up before it has read everything.
    with connection, suppress(ConnectionError):
        while connection.recv(65536):
            reply = answer()
            if reply is None:
                return
            connection.sendall(reply[:20])
            connection.sendall(reply[20:])
