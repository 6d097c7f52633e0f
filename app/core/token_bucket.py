"""The token bucket: in Redis for all processes together, and in the process where Redis is away.

A bucket holds at most `burst` tokens and gains `per_minute` tokens a minute. All arithmetic is on integers: a token is 60,000,000 units, and a
microsecond adds `per_minute` units, so that nothing is ever rounded. Several buckets are taken from together: a token from each, or none from any.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from time import monotonic_ns
from typing import NamedTuple

from app.core.redis import Script

UNITS_PER_TOKEN = 60_000_000
LOCAL_BUCKETS = 50_000

# Taking and reading are one script, because read-modify-write from the client admits several times the limit. It also carries the stamps of
# app.core.stamps, so that a request makes one call to Redis and no more. The time is the server's own: clients' clocks differ.
TAKE_SCRIPT = Script("""
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local buckets = tonumber(ARGV[1])
local stored = redis.call('MGET', unpack(KEYS))
local levels, admitted, set_back = {}, 1, false
for i = 1, buckets do
    local rate, capacity = tonumber(ARGV[2 * i]), ARGV[2 * i + 1] * 60000000
    local level = capacity
    if stored[i] then
        local left, at = string.match(stored[i], '^(%d+):(%d+)$')
        level = math.min(capacity, left + math.max(0, now - at) * rate)
        if now < tonumber(at) then set_back = true end
    end
    levels[i] = level
    if level < 60000000 then admitted = 0 end
end
local reply = {admitted}
for i = 1, buckets do
    local rate, capacity, level = tonumber(ARGV[2 * i]), ARGV[2 * i + 1] * 60000000, levels[i]
    if admitted == 1 then level = level - 60000000 end
    -- Where the clock was set back, time counts from now: otherwise nothing would be added until it is again as late as it was.
    if admitted == 1 or set_back then
        local lifetime = math.ceil((capacity - level) / rate / 1000) + 1000
        redis.call('SET', KEYS[i], string.format('%.0f:%.0f', level, now), 'PX', string.format('%.0f', lifetime))
    end
    reply[#reply + 1] = math.floor(level / 60000000)
    reply[#reply + 1] = math.ceil(math.max(0, 60000000 - level) / rate)
    reply[#reply + 1] = math.ceil((capacity - level) / rate)
end
for i = buckets + 1, #KEYS do
    local stamp = stored[i]
    if not stamp then
        -- Users who have not changed need one too: else a stamp that is lost would look like theirs, and what it had put out of date be current again.
        stamp = string.format('%.0f', now)
        redis.call('SET', KEYS[i], stamp, 'PX', ARGV[2 * buckets + 2])
    end
    reply[#reply + 1] = stamp
end
return reply
""")


class Bucket(NamedTuple):
    """A bucket's name, key and size."""

    name: str
    key: str
    per_minute: int
    burst: int


class BucketState(NamedTuple):
    """A bucket after a request. Times are in microseconds."""

    bucket: Bucket
    remaining: int
    until_token: int
    until_full: int


class Taken(NamedTuple):
    """Whether a token was had from every bucket, and where each stands now."""

    admitted: bool
    states: tuple[BucketState, ...]


def microseconds_now() -> int:
    """Return the time of a clock that nobody can set."""
    return monotonic_ns() // 1000


class LocalBuckets:
    """The same buckets in this process alone. The least recently used are forgotten, that is full again, beyond `capacity` of them."""

    def __init__(self, now: Callable[[], int] = microseconds_now, capacity: int = LOCAL_BUCKETS) -> None:
        self._now = now
        self._capacity = capacity
        self._levels: OrderedDict[Hashable, tuple[int, int]] = OrderedDict()

    def take(self, buckets: Sequence[Bucket]) -> Taken:
        """Take a token from each bucket, or none from any."""
        now = self._now()
        levels = [self._level(bucket, now) for bucket in buckets]
        admitted = all(level >= UNITS_PER_TOKEN for level in levels)
        if admitted:
            levels = [level - UNITS_PER_TOKEN for level in levels]
            for bucket, level in zip(buckets, levels, strict=True):
                self._levels[bucket.key] = (level, now)
                self._levels.move_to_end(bucket.key)
            while len(self._levels) > self._capacity:
                self._levels.popitem(last=False)
        return Taken(admitted, tuple(_state(bucket, level) for bucket, level in zip(buckets, levels, strict=True)))

    def _level(self, bucket: Bucket, now: int) -> int:
        capacity = bucket.burst * UNITS_PER_TOKEN
        left, at = self._levels.get(bucket.key, (capacity, now))
        if now < at:
            # As in the script, where the clock was set back.
            self._levels[bucket.key] = (left, now)
        return min(capacity, left + max(0, now - at) * bucket.per_minute)


def _state(bucket: Bucket, level: int) -> BucketState:
    def time_for(units: int) -> int:
        return -(-max(0, units) // bucket.per_minute)

    return BucketState(bucket, level // UNITS_PER_TOKEN, time_for(UNITS_PER_TOKEN - level), time_for(bucket.burst * UNITS_PER_TOKEN - level))
