"""The token bucket: exact to the last microsecond, in Redis and in the process alike."""

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, cast
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis import Redis

from app.config import Settings
from app.core.token_bucket import TAKE_SCRIPT, UNITS_PER_TOKEN, Bucket, BucketState, LocalBuckets, Taken
from tests.faults.support import ROOT

MINUTE = 60_000_000
START = 1_790_000_000_000_000
CLOCK = "local clock = redis.call('TIME')"
LARGEST = 1_000_000

# The very script, with the time given by the test instead of by the server.
SCRIPT_WITH_CLOCK = TAKE_SCRIPT.text.replace(CLOCK, "local clock = {ARGV[#ARGV - 1], ARGV[#ARGV]}")

sizes = st.one_of(st.integers(1, 100), st.integers(1, LARGEST), st.just(LARGEST))
shapes = st.tuples(sizes, sizes)
pauses = st.one_of(st.just(0), st.integers(0, 2_000), st.integers(0, 10 * MINUTE), st.integers(0, 10**14))
profile = hypothesis_settings(max_examples=100, deadline=None)
# Each step of these is a round trip to Redis.
profile_with_redis = hypothesis_settings(max_examples=40, deadline=None)


@pytest.fixture(scope="module")
def redis(settings: Settings) -> Iterator["Redis"]:
    with Redis.from_url(settings.redis_url.get_secret_value()) as client:
        yield client


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now


class RemoteBuckets:
    """The buckets in Redis, by the clock of the test."""

    def __init__(self, redis: "Redis", clock: Clock) -> None:
        self._redis = redis
        self._clock = clock
        self._run = redis.register_script(SCRIPT_WITH_CLOCK)

    def take(self, buckets: list[Bucket]) -> Taken:
        arguments = [len(buckets), *(size for bucket in buckets for size in (bucket.per_minute, bucket.burst)), 3_600_000, *divmod(self._clock.now, 1_000_000)]
        reply = cast("list[int]", self._run(keys=[bucket.key for bucket in buckets], args=arguments))
        for bucket in buckets:
            # The server expires keys by its own time, not by the test's.
            self._redis.persist(bucket.key)
        return Taken(reply[0] == 1, tuple(BucketState(bucket, *reply[3 * i + 1 : 3 * i + 4]) for i, bucket in enumerate(buckets)))


def bucket(per_minute: int, burst: int, key: str | None = None) -> Bucket:
    return Bucket("test", key or f"{{test}}:{uuid4()}", per_minute, burst)


def test_the_script_reads_its_clock_in_one_place() -> None:
    assert TAKE_SCRIPT.text.count("TIME") == 1
    assert TAKE_SCRIPT.text != SCRIPT_WITH_CLOCK


@profile_with_redis
@given(shapes=st.lists(shapes, min_size=1, max_size=2), pauses=st.lists(pauses, min_size=1, max_size=25))
def test_redis_and_the_process_agree_on_every_reply(redis: "Redis", shapes: list[tuple[int, int]], pauses: list[int]) -> None:
    clock = Clock()
    local, remote = LocalBuckets(clock), RemoteBuckets(redis, clock)
    buckets = [bucket(*shape) for shape in shapes]
    for pause in pauses:
        clock.now += pause
        assert remote.take(buckets) == local.take(buckets)


@profile_with_redis
@given(changes=st.lists(st.tuples(shapes, pauses), min_size=2, max_size=15))
def test_redis_and_the_process_agree_while_rate_and_burst_change(redis: "Redis", changes: list[tuple[tuple[int, int], int]]) -> None:
    clock = Clock()
    local, remote = LocalBuckets(clock), RemoteBuckets(redis, clock)
    key = f"{{test}}:{uuid4()}"
    for shape, pause in changes:
        clock.now += pause
        resized = [bucket(*shape, key)]
        assert remote.take(resized) == local.take(resized)


@profile_with_redis
@given(shape=shapes, steps=st.lists(st.integers(-MINUTE, MINUTE), min_size=1, max_size=20))
def test_redis_and_the_process_agree_when_the_clock_is_set_back(redis: "Redis", shape: tuple[int, int], steps: list[int]) -> None:
    clock = Clock()
    local, remote = LocalBuckets(clock), RemoteBuckets(redis, clock)
    one = [bucket(*shape)]
    for step in steps:
        clock.now += step
        assert remote.take(one) == local.take(one)


@profile
@given(shape=st.tuples(sizes, st.integers(1, 60)), pauses=st.lists(st.integers(0, MINUTE), min_size=1, max_size=200))
def test_no_stretch_of_time_admits_more_than_the_burst_and_what_flowed_in(shape: tuple[int, int], pauses: list[int]) -> None:
    clock = Clock()
    buckets = LocalBuckets(clock)
    one = [bucket(*shape)]
    admitted: list[int] = []
    for pause in pauses:
        clock.now += pause
        if buckets.take(one).admitted:
            admitted.append(clock.now)
    rate, burst = shape
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            assert (last - first + 1) * UNITS_PER_TOKEN <= burst * UNITS_PER_TOKEN + (admitted[last] - admitted[first]) * rate


@profile_with_redis
@given(shapes=st.lists(st.tuples(sizes, st.integers(1, 10)), min_size=1, max_size=2), pauses=st.lists(st.integers(0, 100_000), max_size=5))
def test_a_request_is_admitted_at_the_very_microsecond_that_was_foretold(redis: "Redis", shapes: list[tuple[int, int]], pauses: list[int]) -> None:
    clock = Clock()
    remote = RemoteBuckets(redis, clock)
    buckets = [bucket(*shape) for shape in shapes]
    for pause in [0] * 10 + pauses:
        clock.now += pause
        taken = remote.take(buckets)
        if not taken.admitted:
            wait = max(state.until_token for state in taken.states)
            assert wait >= 1
            clock.now += wait - 1
            assert not remote.take(buckets).admitted
            clock.now += 1
            assert remote.take(buckets).admitted


@pytest.mark.parametrize("empty", ["first", "second"])
def test_a_token_is_taken_from_each_bucket_or_from_none(redis: "Redis", empty: str) -> None:
    clock = Clock()
    for buckets in (LocalBuckets(clock), RemoteBuckets(redis, clock)):
        small, large = bucket(1, 1), bucket(1, 10)
        pair = [small, large] if empty == "first" else [large, small]
        first = buckets.take(pair)
        assert first.admitted
        assert sorted(state.remaining for state in first.states) == [0, 9]
        for _ in range(5):
            refused = buckets.take(pair)
            assert not refused.admitted
            assert sorted(state.remaining for state in refused.states) == [0, 9]
        assert buckets.take([large]).states[0].remaining == 8


def test_a_bucket_that_is_full_again_holds_its_burst_and_no_more(redis: "Redis") -> None:
    clock = Clock()
    for buckets in (LocalBuckets(clock), RemoteBuckets(redis, clock)):
        one = [bucket(60, 3)]
        assert buckets.take(one).states[0].remaining == 2
        clock.now += 10**15
        assert buckets.take(one).states[0].remaining == 2


def test_a_shrunk_burst_counts_at_once(redis: "Redis") -> None:
    clock = Clock()
    for buckets in (LocalBuckets(clock), RemoteBuckets(redis, clock)):
        key = f"{{test}}:{uuid4()}"
        assert buckets.take([bucket(60, 100, key)]).states[0].remaining == 99
        assert buckets.take([bucket(60, 10, key)]).states[0].remaining == 9


def test_a_grown_burst_gives_no_tokens_by_itself(redis: "Redis") -> None:
    clock = Clock()
    for buckets in (LocalBuckets(clock), RemoteBuckets(redis, clock)):
        key = f"{{test}}:{uuid4()}"
        assert buckets.take([bucket(60, 10, key)]).states[0].remaining == 9
        assert buckets.take([bucket(60, 1_000, key)]).states[0].remaining == 8


def test_a_clock_that_is_set_back_gives_no_tokens(redis: "Redis") -> None:
    clock = Clock()
    for buckets in (LocalBuckets(clock), RemoteBuckets(redis, clock)):
        one = [bucket(LARGEST, 10)]
        for remaining in range(9, -1, -1):
            clock.now -= MINUTE
            assert buckets.take(one).states[0].remaining == remaining
        assert not buckets.take(one).admitted


def test_a_clock_that_is_set_back_locks_nobody_out(redis: "Redis") -> None:
    """Retry-After says when a request is admitted, also after the clock was set back by an hour."""
    clock = Clock()
    for buckets in (LocalBuckets(clock), RemoteBuckets(redis, clock)):
        one = [bucket(60, 1)]
        assert buckets.take(one).admitted
        clock.now -= 60 * MINUTE
        refused = buckets.take(one)
        assert not refused.admitted
        clock.now += refused.states[0].until_token
        assert buckets.take(one).admitted


def test_the_largest_limits_lose_no_digit(redis: "Redis") -> None:
    """A level of 6e13 units and a time of 1.8e15 µs: beyond what `tostring` in Lua writes out."""
    clock = Clock()
    remote = RemoteBuckets(redis, clock)
    one = bucket(LARGEST, LARGEST)
    for count in range(1, 6):
        clock.now += 7
        remote.take([one])
        level, at = map(int, cast("bytes", redis.get(one.key)).split(b":"))
        assert at == clock.now
        assert level == LARGEST * UNITS_PER_TOKEN - count * UNITS_PER_TOKEN + (count - 1) * 7 * LARGEST


@pytest.mark.parametrize("shape", [(1, 1), (60, 60), (120, 60), (1, LARGEST), (LARGEST, 1), (LARGEST, LARGEST), (7, 13)])
def test_a_bucket_is_kept_until_it_is_full_again(redis: "Redis", shape: tuple[int, int]) -> None:
    """One that expired sooner would be full sooner."""
    one = bucket(*shape)
    script = redis.register_script(TAKE_SCRIPT.text)
    for _ in range(min(shape[1], 20)):
        reply = cast("list[int]", script(keys=[one.key], args=[1, *shape, 3_600_000]))
    until_full = reply[3]
    assert redis.pttl(one.key) * 1000 >= until_full


def test_the_least_recently_used_buckets_of_the_process_are_forgotten() -> None:
    clock = Clock()
    buckets = LocalBuckets(clock, capacity=3)
    made = [bucket(1, 5) for _ in range(4)]
    for one in made:
        buckets.take([one])
    assert buckets.take([made[3]]).states[0].remaining == 3
    assert buckets.take([made[0]]).states[0].remaining == 4


# ─── Under several processes ─────────────────────────────────────────────────────────────────────────────────────────

HAMMER = """
import sys
from redis import Redis
from app.core.token_bucket import TAKE_SCRIPT
url, calls, *rest = sys.argv[1:]
buckets = [(rest[i], rest[i + 1], rest[i + 2]) for i in range(0, len(rest), 3)]
redis = Redis.from_url(url)
script = redis.register_script(TAKE_SCRIPT.text)
redis.blpop("{hammer}:start:" + buckets[0][0], 30)
arguments = [len(buckets), *(size for _, rate, burst in buckets for size in (rate, burst)), 1000]
print(sum(script(keys=[key for key, _, _ in buckets], args=arguments)[0] for _ in range(int(calls))))
"""
PROCESSES = 4


def hammer(redis: "Redis", url: str, calls: int, buckets: list[Bucket]) -> int:
    """Take tokens from four processes at once. Returns how many were had."""
    sizes = [str(part) for one in buckets for part in (one.key, one.per_minute, one.burst)]
    started = [subprocess.Popen([sys.executable, "-c", HAMMER, url, str(calls), *sizes], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)]
    redis.rpush("{hammer}:start:" + buckets[0].key, *["go"] * PROCESSES)
    outputs = [process.communicate(timeout=60)[0] for process in started]
    assert [process.returncode for process in started] == [0] * PROCESSES
    return sum(map(int, outputs))


def test_several_processes_admit_exactly_the_burst(redis: "Redis", settings: Settings) -> None:
    slow = bucket(1, 300)
    began = redis.time()
    admitted = hammer(redis, settings.redis_url.get_secret_value(), 150, [slow, bucket(1, 10_000)])
    ended = redis.time()
    assert 300 <= admitted <= 300 + (ended[0] - began[0] + 1) // 60


def test_several_processes_admit_exactly_what_flows_in(redis: "Redis", settings: Settings) -> None:
    """Nothing is lost or made between processes: what was there, plus what flowed in, less what is left, is what was admitted, to the last unit."""
    fast = bucket(6_000, LARGEST)
    seconds, micros = redis.time()
    began, initial = seconds * 1_000_000 + micros, 50 * UNITS_PER_TOKEN
    redis.set(fast.key, f"{initial}:{began}")
    admitted = hammer(redis, settings.redis_url.get_secret_value(), 300, [fast])
    level, at = map(int, cast("bytes", redis.get(fast.key)).split(b":"))
    assert admitted * UNITS_PER_TOKEN == initial + (at - began) * fast.per_minute - level
    assert admitted > 50


def test_times_only_grow(redis: "Redis") -> None:
    """The script's own clock is the server's, in microseconds."""
    one = bucket(LARGEST, LARGEST)
    script = redis.register_script(TAKE_SCRIPT.text)
    times: list[Any] = []
    for _ in range(20):
        script(keys=[one.key], args=[1, LARGEST, LARGEST, 1000])
        times.append(int(cast("bytes", redis.get(one.key)).split(b":")[1]))
    seconds, _ = redis.time()
    assert all(earlier < later for earlier, later in pairwise(times))
    assert abs(times[-1] // 1_000_000 - seconds) <= 1
