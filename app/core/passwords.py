"""Passwords: which are acceptable, and how they are hashed without stalling the event loop."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from passlib.context import CryptContext
from zxcvbn.frequency_lists import FREQUENCY_LISTS

from app.core.exceptions import Overloaded, WeakPassword

SHORTEST, LONGEST = 8, 128
WAITING_PER_THREAD = 8
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
    """Hashes and verifies in as many threads as there are cores, and refuses what would have to wait too long.

    Its threads give way to all others: what is not a sign-in must not notice one. The scheme is `bcrypt_sha256`: bcrypt alone reads 72 bytes and no more.
    """

    def __init__(self, rounds: int) -> None:
        self._context = CryptContext(schemes=["bcrypt_sha256"], bcrypt_sha256__rounds=rounds)
        threads = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="password", initializer=_give_way)
        self._most = threads * (1 + WAITING_PER_THREAD)
        self._pending = 0
        # Made now, so that the first unknown address costs no more than those after it.
        self._dummy = self._context.hash("no one's password")

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
        if self._pending >= self._most:
            raise Overloaded("Too many people are signing in at this moment. Try again shortly.", retry_after=2)
        self._pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._pending -= 1


def _give_way() -> None:
    """Have the kernel prefer every other thread to this one. Only Linux knows a niceness of single threads."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
