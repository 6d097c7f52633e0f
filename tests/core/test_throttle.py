"""The throttle: the first attempts are free, then each waits longer, alike in Redis and in the process."""

import asyncio
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis import Redis

from app.config import Settings
from app.core.account_exceptions import SignInThrottled
from app.core.exceptions import Overloaded
from app.core.redis import RedisGateway
from app.core.throttle import GUESSES, SCRIPT, Admission, LocalCounts, Pace, Throttle, key_of
from app.services.container import Services
from tests.faults.support import running

MINUTE = 60.0
START = 1_790_000_000.0
CLOCK = "local clock = redis.call('TIME')"
# The very script, with the time given by the test instead of by the server.
SCRIPT_WITH_CLOCK = SCRIPT.text.replace(CLOCK, "local clock = {ARGV[7], ARGV[8]}")


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class RemoteCounts:
    """The counts in Redis, by the clock of the test."""

    def __init__(self, redis: "Redis", clock: Clock) -> None:
        self._clock = clock
        self._run = redis.register_script(SCRIPT_WITH_CLOCK)
        self._redis = redis
        self._stored_at: dict[str, float] = {}

    def run(self, operation: str, key: str, pace: Pace, reserved: str = "") -> Admission:
        # The server expires keys by its own time, not by the test's.
        if self._clock.now >= self._stored_at.get(key, START) + pace.memory:
            self._redis.delete(key)
        before = self._redis.get(key)
        milliseconds = [int(seconds * 1000) for seconds in pace[1:]]
        seconds, rest = divmod(int(self._clock.now * 1000), 1000)
        outcome, wait, *state = self._run(keys=[key], args=[operation, pace.free, *milliseconds, reserved, seconds, rest * 1000])
        if self._redis.get(key) != before:
            self._stored_at[key] = self._clock.now
        return Admission(outcome > 0, wait / 1000, state[0].decode() if state else "")


Counts = Callable[[Clock], LocalCounts | RemoteCounts]


@pytest.fixture(scope="module")
def redis(settings: Settings) -> Iterator["Redis"]:
    with Redis.from_url(settings.redis_url.get_secret_value()) as client:
        yield client


@pytest.fixture(params=["process", "redis"])
def counts(request: pytest.FixtureRequest, redis: "Redis") -> Counts:
    return LocalCounts if request.param == "process" else lambda clock: RemoteCounts(redis, clock)


def a_subject() -> str:
    return f"somebody {uuid4()}"


async def wrong() -> bool:
    return False


async def right() -> bool:
    return True


async def wait_after(throttle: Throttle, subject: str) -> int:
    """Return for how many seconds the next attempt would be refused."""
    with pytest.raises(SignInThrottled) as refusal:
        await throttle.guess(subject, right)
    return int(refusal.value.headers["Retry-After"])


# ─── The counts ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_script_reads_its_clock_in_one_place() -> None:
    assert SCRIPT.text.count("TIME") == 1
    assert SCRIPT.text != SCRIPT_WITH_CLOCK


def test_pauses_double_up_to_a_quarter_of_an_hour(counts: Counts) -> None:
    clock = Clock()
    counted, key = counts(clock), str(uuid4())
    for _ in range(5):
        assert counted.run("admit", key, GUESSES).admitted
        counted.run("count", key, GUESSES)
    pauses = []
    for _ in range(7):
        refused = counted.run("admit", key, GUESSES)
        assert not refused.admitted
        pauses.append(refused.wait)
        clock.now += refused.wait - 0.001
        assert not counted.run("admit", key, GUESSES).admitted
        clock.now += 0.002
        assert counted.run("admit", key, GUESSES).admitted
    assert [round(pause / MINUTE) for pause in pauses] == [1, 2, 4, 8, 15, 15, 15]


def test_an_attempt_after_a_pause_has_begun_the_next_one(counts: Counts) -> None:
    clock = Clock()
    counted, key = counts(clock), str(uuid4())
    for _ in range(5):
        counted.run("count", key, GUESSES)
    clock.now += MINUTE + 1
    assert [counted.run("admit", key, GUESSES).admitted for _ in range(20)] == [True] + [False] * 19


def test_a_day_of_quiet_has_all_forgotten(counts: Counts) -> None:
    clock = Clock()
    counted, key = counts(clock), str(uuid4())
    for _ in range(8):
        counted.run("count", key, GUESSES)
    clock.now += GUESSES.memory + 1
    assert [counted.run("admit", key, GUESSES) for _ in range(5)] == [Admission(admitted=True)] * 5


def test_an_attempt_that_was_not_made_is_taken_back_unless_more_has_happened(counts: Counts) -> None:
    clock = Clock()
    counted, key = counts(clock), str(uuid4())
    for _ in range(5):
        counted.run("count", key, GUESSES)
    clock.now += MINUTE + 1
    reserved = counted.run("admit", key, GUESSES).reserved
    counted.run("release", key, GUESSES, reserved)
    again = counted.run("admit", key, GUESSES)
    assert again.admitted
    counted.run("count", key, GUESSES)
    counted.run("release", key, GUESSES, again.reserved)
    assert not counted.run("admit", key, GUESSES).admitted


def test_where_each_attempt_counts_so_many_are_made_and_no_more(counts: Counts) -> None:
    clock = Clock()
    pace = Pace(free=3, first_pause=100, longest_pause=100, memory=100)
    counted, key = counts(clock), str(uuid4())
    assert [counted.run("take", key, pace).admitted for _ in range(10)] == [True] * 3 + [False] * 7
    clock.now += 101
    assert [counted.run("take", key, pace).admitted for _ in range(10)] == [True] * 3 + [False] * 7


def test_a_clock_that_was_set_back_locks_nobody_out(counts: Counts) -> None:
    clock = Clock()
    counted, key = counts(clock), str(uuid4())
    if isinstance(counted, LocalCounts):
        return  # its clock cannot be set
    for _ in range(5):
        counted.run("count", key, GUESSES)
    clock.now -= 3600
    assert counted.run("admit", key, GUESSES).admitted


operations = st.tuples(st.sampled_from(("admit", "count", "take", "release")), st.sampled_from((0, 1, 30, 60, 61, 900, 90_000)))


@hypothesis_settings(max_examples=40, deadline=None)
@given(steps=st.lists(operations, min_size=1, max_size=30))
def test_redis_and_the_process_agree_on_every_reply(redis: "Redis", steps: list[tuple[str, int]]) -> None:
    clock, key = Clock(), str(uuid4())
    both: tuple[LocalCounts | RemoteCounts, ...] = (LocalCounts(clock), RemoteCounts(redis, clock))
    reserved = ["", ""]
    for operation, pause in steps:
        clock.now += pause
        replies = [counted.run(operation, key, GUESSES, mine) for counted, mine in zip(both, reserved, strict=True)]
        assert replies[0][:2] == replies[1][:2]
        assert bool(replies[0].reserved) == bool(replies[1].reserved)
        reserved = [reply.reserved for reply in replies]


def test_the_process_forgets_the_least_recent_beyond_its_capacity() -> None:
    counted = LocalCounts(Clock(), capacity=10)
    for number in range(1_000):
        counted.run("count", str(number), GUESSES)
    assert len(counted._states) == 10


def test_a_key_tells_nothing_of_whom_it_is_about() -> None:
    assert "example" not in key_of("sign-in\0acme\0ada@example.com")
    assert key_of("sign-in\0acme\0ada@example.com") != key_of("sign-in\0acmeada\0@example.com")


# ─── Guesses ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_five_wrong_guesses_begin_a_pause_of_a_minute(services: Services) -> None:
    subject = a_subject()
    assert [await services.throttle.guess(subject, wrong) for _ in range(5)] == [False] * 5
    assert 58 <= await wait_after(services.throttle, subject) <= 60


async def test_a_right_guess_has_the_wrong_ones_forgotten(services: Services) -> None:
    subject = a_subject()
    for _ in range(3):
        for _ in range(4):
            await services.throttle.guess(subject, wrong)
        assert await services.throttle.guess(subject, right)


async def test_what_is_refused_is_not_verified(services: Services) -> None:
    subject, verified = a_subject(), 0

    async def counting() -> bool:
        nonlocal verified
        verified += 1
        return False

    for _ in range(5):
        await services.throttle.guess(subject, counting)
    for _ in range(10):
        await wait_after(services.throttle, subject)
    with pytest.raises(SignInThrottled):
        await services.throttle.guess(subject, counting)
    assert verified == 5


async def test_of_many_guesses_at_once_after_a_pause_one_is_verified(services: Services, redis: "Redis") -> None:
    subject, verified = a_subject(), 0

    async def slow() -> bool:
        nonlocal verified
        verified += 1
        await asyncio.sleep(0.05)
        return False

    redis.set(key_of(subject), "5:1", px=60_000)
    outcomes = await asyncio.gather(*(services.throttle.guess(subject, slow) for _ in range(50)), return_exceptions=True)
    assert verified == 1
    assert sum(isinstance(outcome, SignInThrottled) for outcome in outcomes) == 49


async def test_retry_after_is_true(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = a_subject()
    monkeypatch.setattr("app.core.throttle.GUESSES", Pace(free=2, first_pause=1, longest_pause=1, memory=60))
    for _ in range(2):
        await services.throttle.guess(subject, wrong)
    await asyncio.sleep(await wait_after(services.throttle, subject))
    assert await services.throttle.guess(subject, right)


async def test_a_guess_that_the_service_was_too_busy_to_verify_is_no_guess(services: Services, redis: "Redis") -> None:
    subject = a_subject()

    async def busy() -> bool:
        raise Overloaded

    for _ in range(10):
        with pytest.raises(Overloaded):
            await services.throttle.guess(subject, busy)
    redis.set(key_of(subject), "5:1", px=60_000)
    for _ in range(3):
        with pytest.raises(Overloaded):
            await services.throttle.guess(subject, busy)
    assert await services.throttle.guess(subject, right)


async def test_every_process_counts_the_guesses_at_all(services: Services, settings: Settings) -> None:
    subject = a_subject()
    async with running(settings) as (other, _):
        for number in range(5):
            await (services if number % 2 else other.state.services).throttle.guess(subject, wrong)
        await wait_after(services.throttle, subject)
        await wait_after(other.state.services.throttle, subject)


async def test_without_redis_each_process_counts_by_itself() -> None:
    redis = RedisGateway("redis://127.0.0.1:1/0", timeout=0.5, max_connections=1)
    throttle, subject = Throttle(redis), a_subject()
    assert [await throttle.guess(subject, wrong) for _ in range(5)] == [False] * 5
    assert 58 <= await wait_after(throttle, subject) <= 60
    await throttle.forget(subject)
    assert await throttle.guess(subject, right)
    await redis.close()
