"""Whose turn it is to speak to the SMTP server: a few at once, and after it has kept somebody waiting in vain one alone, to see whether it is well again."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil

# Of the twenty jobs that a worker does at once. A server that hangs holds these up for as long as it likes, and no other.
AT_ONCE = 8
# For so long nobody waits for a server that has just kept somebody waiting in vain.
REST_SECONDS = 10.0
# Whoever is put off comes back a second later, and each after the first a little later still: a thousand that wait must not be all that a worker looks at.
FIRST_PAUSE, STEP_SECONDS, LONGEST_PAUSE = 1.0, 0.05, 600.0


class NotNow(Exception):
    """It is others' turn. To be tried again after `seconds`; it says nothing about the mail."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"to be tried again after {seconds} s")
        self.seconds = seconds


@dataclass
class Turn:
    """One delivery. Whoever makes it says how it ended; where nobody does, it was broken off."""

    began: float
    is_probe: bool
    hung: bool | None = None


class Turns:
    """Counts those who speak to one server."""

    def __init__(self) -> None:
        self._speaking = 0
        self._probing = False
        self._doubtful = False
        self._resting_until = 0.0
        self._answered_at = 0.0
        self._put_off = 0

    def check(self) -> None:
        """Raise `NotNow` where nobody could take a turn."""
        now = time.monotonic()
        resting = self._resting_until - now if self._doubtful else 0.0
        if resting > 0 or self._speaking >= AT_ONCE or (self._doubtful and self._probing):
            pause = min(FIRST_PAUSE + STEP_SECONDS * self._put_off, LONGEST_PAUSE)
            self._put_off += 1
            raise NotNow(ceil(max(pause, resting)))

    @contextmanager
    def take(self) -> Iterator[Turn]:
        """Take a turn, until the block ends. Raises `NotNow`."""
        self.check()
        turn = Turn(began=time.monotonic(), is_probe=self._doubtful)
        self._speaking += 1
        self._probing |= turn.is_probe
        try:
            yield turn
        finally:
            self._speaking -= 1
            self._probing &= not turn.is_probe
            if turn.hung is not None:
                self._learn(turn)

    def _learn(self, turn: Turn) -> None:
        if not turn.hung:
            self._doubtful, self._answered_at, self._put_off = False, time.monotonic(), 0
        # What hung from before the last answer on says nothing about the server as it is now.
        elif turn.began > self._answered_at:
            self._doubtful, self._resting_until = True, time.monotonic() + REST_SECONDS
