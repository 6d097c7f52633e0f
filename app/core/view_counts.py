"""Counts views of projects in Redis, without waiting for it, and without a write to PostgreSQL in the request.

The command is in the socket before the answer is, so a process that is killed right after answering has lost no view. It travels on a connection of its
own to which Redis never replies (CLIENT REPLY OFF). `app.jobs.view_counts` carries the counts on to PostgreSQL.
"""

import asyncio
from collections import Counter
from contextlib import suppress
from uuid import UUID

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from app.core.redis import RedisAway, RedisGateway

# One tag for both keys, so that a batch is split off atomically in a cluster as well.
PENDING_KEY = "{views}:pending"
BATCH_KEY = "{views}:batch"
MOST_WAITING = 100_000


class ViewCounter:
    """Counts views. While Redis is away they wait in the process."""

    def __init__(self, redis: RedisGateway) -> None:
        self._redis = redis
        self._connection: AbstractConnection | None = None
        self._watch: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._waiting: Counter[str] = Counter()
        redis.when_back(self._send_waiting)

    async def count(self, tenant_id: UUID, project_id: UUID) -> None:
        """Count one view of a project."""
        field = f"{tenant_id}:{project_id}"
        try:
            await self._redis.call(lambda _: self._send(field, 1))
        except RedisAway:
            await self._drop_connection()
            if field in self._waiting or len(self._waiting) < MOST_WAITING:
                self._waiting[field] += 1

    async def close(self) -> None:
        """Send what waits, if Redis is there, and close the connection."""
        if self._waiting:
            with suppress(RedisAway):
                await self._redis.call(lambda _: self._send_waiting())
        await self._drop_connection()

    async def _send(self, field: str, views: int) -> None:
        connection = self._connection
        if connection is None or not connection.is_connected:
            connection = await self._connect()
        await connection.send_command("HINCRBY", PENDING_KEY, field, views)

    async def _connect(self) -> AbstractConnection:
        async with self._connecting:
            if self._connection is None or not self._connection.is_connected:
                connection: AbstractConnection = self._redis.client.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # untyped in redis-py
                await connection.connect()  # type: ignore[no-untyped-call]  # untyped in redis-py
                await connection.send_command("CLIENT", "REPLY", "OFF")
                self._connection = connection
                self._watch = asyncio.create_task(self._drop_when_closed(connection))
            return self._connection

    async def _drop_when_closed(self, connection: AbstractConnection) -> None:
        """Notice that Redis has closed the connection: a write would not tell."""
        with suppress(RedisError, OSError):
            await connection.read_response()
        if self._connection is connection:
            await self._drop_connection()

    async def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)
            if self._watch is not None and self._watch is not asyncio.current_task():
                self._watch.cancel()

    async def _send_waiting(self) -> None:
        while self._waiting:
            field, views = self._waiting.popitem()
            try:
                await self._send(field, views)
            except BaseException:
                self._waiting[field] += views
                raise
