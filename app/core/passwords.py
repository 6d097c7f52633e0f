"""Passwords: which are acceptable, and how they are hashed without stalling the event loop."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from passlib.context import CryptContext
from zxcvbn.frequency_lists import FREQUENCY_LISTS

from app.core.exceptions import Overloaded, WeakPassword
from app.utils.cores import usable_cores

SHORTEST, LONGEST = 8, 128
WAITING_PER_THREAD = 8
# What a hash takes is averaged, and each counts for a fifth of what is known then: the last few say how busy the machine is now.
LONGEST_WAIT_SECONDS, LATEST_COUNTS = 2.0, 0.2
NICENESS = 10
COMMON = frozenset(word for word in FREQUENCY_LISTS["passwords"] if len(word) >= SHORTEST)

Result = TypeVar("Result")


def refuse_weak(password: str, *, email: str, tenant_name: str, tenant_slug: str, field: str = "password") -> None:
    """Raise `WeakPassword` for a common password, or one that is the address or the tenant's name. Length is the schema's business.

    `field` is where in the body the password stands.
    """
    location = ("body", field)
    lowered = password.strip().lower()
    if lowered in COMMON:
        raise WeakPassword("This password is among the most common ones.", location=location)
    if lowered in {email.lower(), email.lower().partition("@")[0], tenant_name.lower(), tenant_slug.lower()}:
        raise WeakPassword("The password must not be the address or the tenant's name.", location=location)


class PasswordHasher:
    """Hashes and verifies in as many threads as there are cores to use, and refuses what would have to wait too long.

    That is told by how many wait, and by how long the last hashes took: others may use the same cores, and then few are too many.

    Its threads give way to all others: what is not a sign-in must not notice one. The scheme is `bcrypt_sha256`: bcrypt alone reads 72 bytes and no more.
    """

    def __init__(self, rounds: int) -> None:
        self._context = CryptContext(schemes=["bcrypt_sha256"], bcrypt_sha256__rounds=rounds)
        self._threads = usable_cores()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="password", initializer=_give_way)
        self._most = self._threads * (1 + WAITING_PER_THREAD)
        self._pending = 0
        # Made now, so that the first unknown address costs no more than those after it.
        self._dummy, self._seconds_of_one = _timed(lambda: self._context.hash("no one's password"))

    async def hash(self, password: str) -> str:
        """Return the hash to store. Raises `Overloaded`."""
        return await self._run(lambda: self._context.hash(password))

    async def verify(self, password: str, stored: str | None) -> bool:
        """Whether the password is the one that was hashed. Without a stored hash the same work is done, and the answer is no. Raises `Overloaded`."""
        return await self._run(lambda: self._verify(password, stored))

    def is_outdated(self, stored: str) -> bool:
        """Whether the hash was made with another cost than is set now, so that verifying it takes another time than the dummy's does."""
        return bool(self._context.needs_update(stored))

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _verify(self, password: str, stored: str | None) -> bool:
        matches = self._context.verify(password, stored or self._dummy)
        return matches and stored is not None

    async def _run(self, work: Callable[[], Result]) -> Result:
        waiting = self._pending - self._threads
        if self._pending >= self._most or waiting * self._seconds_of_one / self._threads > LONGEST_WAIT_SECONDS:
            raise Overloaded("Too many people are signing in at this moment. Try again shortly.", retry_after=2)
        self._pending += 1
        try:
            result, seconds = await asyncio.get_running_loop().run_in_executor(self._pool, _timed, work)
        finally:
            self._pending -= 1
        self._seconds_of_one += (seconds - self._seconds_of_one) * LATEST_COUNTS
        return result


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """Return the result, and how many seconds it took."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def _give_way() -> None:
    """Have the kernel prefer every other thread to this one. Only Linux knows a niceness of single threads."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
