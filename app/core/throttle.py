"""Slows down whoever tries again and again: guesses at one password, mail to one address. In Redis for all processes together, in the process without it.

The first few attempts are free. From then on each one is followed by a pause, twice as long as the one before. An attempt that comes after a pause
begins the next pause *before* it is made, so that of many at once one alone is made. What is counted is forgotten after a time of quiet.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from math import ceil
from time import monotonic
from typing import NamedTuple

from app.core import attempts
from app.core.account_exceptions import SignInThrottled
from app.core.exceptions import Overloaded
from app.core.redis import RedisAway, RedisGateway, Script

LOCAL_ENTRIES = 50_000

# The state is "<counted>:<end of the pause in milliseconds>", by the server's own clock. `take` counts each attempt that it admits; `admit`
# does so only after a pause. Both answer {0, ms to wait}, {1, 0}, or {2, 0, state} where they have counted, which `release` takes back if nothing has
# changed since.
SCRIPT = Script("""
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local operation, free, first, longest, memory = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local stored = redis.call('GET', KEYS[1])
local counted, till = 0, 0
if stored then counted, till = string.match(stored, '^(%d+):(%d+)$'); counted, till = tonumber(counted), tonumber(till) end
-- Where the clock was set back, a pause would seem longer than any is.
if till - now > longest then till = 0 end

local function store()
    local state = string.format('%.0f:%.0f', counted, till)
    redis.call('SET', KEYS[1], state, 'PX', memory)
    return state
end

local function count()
    counted = counted + 1
    if counted >= free then till = now + math.min(longest, first * 2 ^ math.min(counted - free, 30)) end
    return store()
end

if operation == 'count' then
    count()
elseif operation == 'release' then
    if stored == ARGV[6] then counted = counted - 1; till = 0; store() end
elseif operation == 'take' or counted >= free then
    if now < till then return {0, till - now} end
    return {2, 0, count()}
end
return {1, 0}
""")


class Pace(NamedTuple):
    """How many attempts are free, and in seconds the first pause, the longest one, and the quiet after which all is forgotten."""

    free: int
    first_pause: float
    longest_pause: float
    memory: float


GUESSES = Pace(free=5, first_pause=60, longest_pause=15 * 60, memory=24 * 3600)


class Admission(NamedTuple):
    """Whether an attempt may be made. `wait` is in seconds; `reserved` is the state that the attempt itself has brought about."""

    admitted: bool
    wait: float = 0.0
    reserved: str = ""


class Throttle:
    """Counts attempts, by keys that tell nothing of whom they are about."""

    def __init__(self, redis: RedisGateway) -> None:
        self._redis = redis
        self._local = LocalCounts()

    async def guess(self, subject: str, verify: Callable[[], Awaitable[bool]]) -> bool:
        """Have a guess at a subject's password verified, and count it where it is wrong.

        Raises `SignInThrottled` without verifying, whether the guess is right or not. A right one has all before it forgotten.
        """
        admission = await self._run("admit", subject, GUESSES)
        if not admission.admitted:
            raise SignInThrottled(headers={"Retry-After": str(ceil(admission.wait))})
        try:
            right = await verify()
        except Overloaded:
            # It was not verified, so it was no guess.
            if admission.reserved:
                await self._run("release", subject, GUESSES, admission.reserved)
            raise
        if right:
            await self.forget(subject)
        elif not admission.reserved:
            await self._run("count", subject, GUESSES)
        return right

    async def take(self, subject: str, pace: Pace) -> bool:
        """Whether one more attempt of a subject may be made, each of which counts."""
        return await self.pause_before(subject, pace) == 0

    async def pause_before(self, subject: str, pace: Pace) -> float:
        """Return how many seconds a subject has to wait before its next attempt; 0 where it may be made at once, and then it counts.

        Once for each request, however often that is run again because its transaction was lost.
        """
        attempt = ("throttle", subject)
        if attempts.has(attempt):
            return 0
        wait = (await self._run("take", subject, pace)).wait
        if not wait:
            attempts.note(attempt)
        return wait

    async def forget(self, subject: str) -> None:
        """Forget what was counted."""
        key = key_of(subject)
        self._local.forget(key)
        try:
            await self._redis.call(lambda client: client.delete(key))
        except RedisAway:
            return

    async def _run(self, operation: str, subject: str, pace: Pace, reserved: str = "") -> Admission:
        key = key_of(subject)
        milliseconds = [int(seconds * 1000) for seconds in pace[1:]]
        try:
            outcome, wait, *state = await self._redis.run(SCRIPT, 1, key, operation, pace.free, *milliseconds, reserved)
        except RedisAway:
            return self._local.run(operation, key, pace, reserved)
        return Admission(outcome > 0, wait / 1000, state[0].decode() if state else "")


class LocalCounts:
    """The same counts in this process alone. The least recently used are forgotten beyond `capacity` of them."""

    def __init__(self, now: Callable[[], float] = monotonic, capacity: int = LOCAL_ENTRIES) -> None:
        self._now = now
        self._capacity = capacity
        self._states: OrderedDict[str, tuple[int, float, float]] = OrderedDict()

    def run(self, operation: str, key: str, pace: Pace, reserved: str = "") -> Admission:
        """Do what the script does."""
        now = self._now()
        counted, till, forgotten_at = self._states.get(key, (0, 0.0, now))
        if now >= forgotten_at:
            counted, till = 0, 0.0
        if operation == "count":
            self._count(key, pace, counted, till)
        elif operation == "release":
            if f"{counted}:{till}" == reserved:
                self._store(key, pace, counted - 1, 0.0)
        elif operation == "take" or counted >= pace.free:
            if now < till:
                return Admission(admitted=False, wait=till - now)
            return Admission(admitted=True, reserved=self._count(key, pace, counted, till))
        return Admission(admitted=True)

    def forget(self, key: str) -> None:
        """Forget what was counted."""
        self._states.pop(key, None)

    def _count(self, key: str, pace: Pace, counted: int, till: float) -> str:
        counted += 1
        if counted >= pace.free:
            till = self._now() + min(pace.longest_pause, pace.first_pause * 2 ** min(counted - pace.free, 30))
        return self._store(key, pace, counted, till)

    def _store(self, key: str, pace: Pace, counted: int, till: float) -> str:
        self._states[key] = (counted, till, self._now() + pace.memory)
        self._states.move_to_end(key)
        while len(self._states) > self._capacity:
            self._states.popitem(last=False)
        return f"{counted}:{till}"


def key_of(subject: str) -> str:
    """Return the key of a subject: a hash, so that whoever reads Redis sees no addresses."""
    return f"{{w:{hashlib.sha256(subject.encode()).hexdigest()}}}:throttle"
