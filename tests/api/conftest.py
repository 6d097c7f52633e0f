"""What the tests of the API share."""

from collections.abc import Iterator

import pytest

from app.config import Settings
from tests.api.live_server import LiveServer
from tests.api.world import World, make_world
from tests.factories import Factory


@pytest.fixture(scope="session")
async def world(factory: Factory) -> World:
    """A tenant that the tests of this worker may read, and must not take anything from."""
    return await make_world(factory)


@pytest.fixture(scope="session")
def live_server(settings: Settings, database_urls: tuple[str, str]) -> Iterator[LiveServer]:
    """The service as a process of its own, that gives a client one second to send a body."""
    with LiveServer.of(settings, {"BODY_TIMEOUT": "1"}) as server:
        yield server
