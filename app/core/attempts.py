"""What stays done when a request is run again because its transaction lost against another one (`app.api.retry`)."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_done: ContextVar[set[Hashable] | None] = ContextVar("done", default=None)


@contextmanager
def request() -> Iterator[None]:
    """Enclose a request that may be run several times."""
    token = _done.set(set())
    try:
        yield
    finally:
        _done.reset(token)


def note(fact: Hashable) -> None:
    """Note what this request has done outside of the transaction that may be lost."""
    done = _done.get()
    if done is not None:
        done.add(fact)


def has(fact: Hashable) -> bool:
    """Whether an earlier attempt at this very request has done it."""
    done = _done.get()
    return done is not None and fact in done
