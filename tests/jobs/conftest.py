"""What the tests of jobs share."""

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from tests.factories import Factory
from tests.faults.support import Valkey, valkey


@pytest.fixture(autouse=True)
async def empty_queue(factory: Factory) -> None:
    """Forget the jobs that other tests have left."""
    await factory.run("TRUNCATE jobs.pgqueuer, jobs.pgqueuer_log, jobs.pgqueuer_schedules")


@pytest.fixture(scope="module")
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A Valkey of the module's own."""
    with valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
async def redis(own_valkey: Valkey) -> AsyncIterator["Redis"]:
    """A client of it, empty."""
    async with Redis.from_url(own_valkey.url) as client:
        await client.flushall()
        yield client
