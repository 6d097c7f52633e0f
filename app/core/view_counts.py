"""Counts views of projects in Redis, without waiting for it, and without a write to PostgreSQL in the request.

The command is in the socket before the answer is, because it is sent before the end of the transaction, which is waited for: a process that is killed right
after answering has lost no view. `app.jobs.view_counts` carries the counts on to PostgreSQL.
"""

import asyncio
from collections import Counter
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any
from uuid import UUID, uuid4

from redis.exceptions import ResponseError

from app.core.redis import RedisAway, RedisGateway

# One tag for all keys, so that a batch is split off atomically in a cluster as well.
PENDING_KEY = "{views}:pending"
BATCH_KEY = "{views}:batch"
# For as long as the same batch might come again.
SENT_KEY = "{views}:sent:"
SENT_SECONDS = 60
MOST_WAITING = 100_000
# How many of those that waited are sent at once: few enough to hold nobody up, here and in Redis.
BATCH = 1_000

# All of a batch, once: where an answer is lost, redis-py sends a command a second time.
ADD_ONCE = """
if redis.call('SET', KEYS[2], 1, 'NX', 'EX', ARGV[1]) then
    for i = 2, #ARGV, 2 do redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
"""


class ViewCounter:
    """Counts views. While Redis is away they wait in the process."""

    def __init__(self, redis: RedisGateway) -> None:
        self._redis = redis
        self._waiting: Counter[str] = Counter()
        redis.when_back(self._send_waiting)

    async def count(self, tenant_id: UUID, project_id: UUID) -> None:
        """Count one view of a project. To be called before the end of the transaction that showed it."""
        field = f"{tenant_id}:{project_id}"
        try:
            answer = await self._redis.post("HINCRBY", PENDING_KEY, field, 1)
        except RedisAway:
            self._keep(field)
        else:
            answer.add_done_callback(partial(self._answered, field))

    async def close(self) -> None:
        """Send what waits, if Redis is there."""
        if self._waiting:
            with suppress(RedisAway):
                await self._redis.call(lambda _: self._send_waiting())

    def _answered(self, field: str, answer: asyncio.Future[Any]) -> None:
        error = None if answer.cancelled() else answer.exception()
        if error is not None:
            self._redis.failed(error)
            # Only what Redis says that it has not done waits on. What was sent and not answered, it may have counted: rather lost than counted twice.
            if isinstance(error, ResponseError):
                self._keep(field)

    def _keep(self, field: str) -> None:
        if field in self._waiting or len(self._waiting) < MOST_WAITING:
            self._waiting[field] += 1

    async def _send_waiting(self) -> None:
        while self._waiting:
            # A connection first: what cannot even be sent is not taken off what waits.
            await self._redis.client.ping()
            batch = dict(islice(self._waiting.items(), BATCH))
            for field in batch:
                del self._waiting[field]
            try:
                counts = [part for item in batch.items() for part in item]
                await self._redis.client.eval(ADD_ONCE, 2, PENDING_KEY, f"{SENT_KEY}{uuid4()}", SENT_SECONDS, *counts)
            except ResponseError:
                # As above.
                self._waiting.update(batch)
                raise
