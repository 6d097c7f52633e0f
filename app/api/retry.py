"""Runs a request again, whole, when its transaction lost against another one."""

from fastapi.routing import APIRoute
from starlette.types import Message, Receive, Scope, Send

from app.core import attempts
from app.core.exceptions import Overloaded
from app.database_faults import TransactionConflict

ATTEMPTS = 3


class RetryingRoute(APIRoute):
    """A route whose request is run up to three times. Of a lost attempt nothing remains but what `app.core.attempts` notes: it was rolled back."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET":
            await super().handle(scope, receive, send)
            return
        received: list[Message] = []
        with attempts.request():
            for _ in range(ATTEMPTS):
                try:
                    await super().handle(scope, _replayed(received, receive), send)
                except TransactionConflict:
                    continue
                return
        raise Overloaded("Too many requests change the same thing at this moment. Try again shortly.")


def _replayed(received: list[Message], receive: Receive) -> Receive:
    """Return a `receive` that gives what earlier attempts have read of the body first."""
    position = 0

    async def replay() -> Message:
        nonlocal position
        if position == len(received):
            received.append(await receive())
        position += 1
        return received[position - 1]

    return replay
