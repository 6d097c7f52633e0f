"""How every process learns at once that a tenant or a user has changed.

Each tenant has a stamp in Redis, and so has each user who calls. The rate limiter's one call reads both, so a process may answer from its own memory
exactly as long as the stamps under which it loaded something are still the current ones. A change renews the stamp once its transaction has ended.
No stamp (Redis is away): nothing is answered from memory. A stamp that Redis has lost (evicted, flushed) is made anew, and is never one from before.

A Redis that was put back, or failed over to a replica that lags, may show a stamp from before a change. Nobody gets to see it without having lost the
connection to the Redis of before, and with that whatever was loaded under its stamps: they belong to an epoch (`RedisGateway.epoch`). So a replica that lacks
nothing but the newest stamp does no harm. Not covered are two primaries at once, of which a change is told to one and another process asks the other:
then the job in `app.services.changes` tells of it again, or the process is behind until the entry is five minutes old.
"""

from collections import OrderedDict
from collections.abc import Hashable
from time import monotonic
from typing import Generic, NamedTuple, TypeVar
from uuid import UUID, uuid4

from app.core.redis import RedisAway, RedisGateway

STAMP_MILLISECONDS = 3_600_000
ENTRY_SECONDS = 300.0
ENTRIES = 50_000

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Stamp(NamedTuple):
    """What a cached answer was loaded under: the stamps of its tenant and its user, and the epoch in which Redis told them."""

    tenant: bytes
    user: bytes = b""
    epoch: int = 0


def stamp_key(tenant_id: UUID, user_id: UUID | None = None) -> str:
    """Return the stamp's key; the braces keep all keys of a tenant on one node of a cluster."""
    return f"{{t:{tenant_id}}}:stamp" if user_id is None else f"{{t:{tenant_id}}}:stamp:{user_id}"


class Stamps:
    """Renews stamps, and remembers those that could not be renewed until Redis is back."""

    def __init__(self, redis: RedisGateway) -> None:
        self._redis = redis
        self._owed: set[str] = set()
        redis.when_back(self._pay)

    async def renew(self, tenant_id: UUID, user_id: UUID | None = None) -> None:
        """Say that the tenant, or one user of it, has changed. To be called after the commit."""
        try:
            await self.put(tenant_id, user_id)
        except RedisAway:
            self._owed.add(stamp_key(tenant_id, user_id))

    async def put(self, tenant_id: UUID, user_id: UUID | None = None) -> None:
        """Do the same, and raise `RedisAway` where it cannot be done now."""
        key = stamp_key(tenant_id, user_id)
        await self._redis.call(lambda client: client.set(key, uuid4().hex, px=STAMP_MILLISECONDS))

    async def _pay(self) -> None:
        while self._owed:
            key = self._owed.pop()
            try:
                await self._redis.client.set(key, uuid4().hex, px=STAMP_MILLISECONDS)
            except BaseException:
                self._owed.add(key)
                raise


class StampedCache(Generic[Key, Value]):
    """Answers kept in the process, each good under the stamp it was loaded under, and for five minutes at the most."""

    def __init__(self, entries: int = ENTRIES) -> None:
        self._entries: OrderedDict[Key, tuple[Value, Stamp, float]] = OrderedDict()
        self._limit = entries

    def get(self, key: Key, stamp: Stamp | None) -> Value | None:
        """Return the value if it was loaded under this very stamp."""
        entry = self._entries.get(key)
        if stamp is None or entry is None or entry[1] != stamp or monotonic() - entry[2] > ENTRY_SECONDS:
            return None
        return entry[0]

    def peek(self, key: Key) -> Value | None:
        """Return the value under whatever stamp: a guess, to be confirmed by `get` before anything rests on it."""
        entry = self._entries.get(key)
        return None if entry is None or monotonic() - entry[2] > ENTRY_SECONDS else entry[0]

    def put(self, key: Key, value: Value, stamp: Stamp) -> None:
        """Keep the value, which must have been loaded after the stamp was read."""
        self._entries[key] = (value, stamp, monotonic())
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)
