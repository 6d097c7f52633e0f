"""A process that was told to stop and did so in order says 0, where it drained and where it did not."""

import asyncio
import signal
from pathlib import Path

import pytest

from app.config import Settings
from tests.faults.support import environment_of, server_process


@pytest.mark.parametrize("drain_seconds", [0, 0.5])
async def test_it_exits_0(settings: Settings, tmp_path: Path, drain_seconds: float) -> None:
    with server_process(tmp_path, environment_of(settings, drain_seconds=drain_seconds)) as server:
        server.send(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait) == 0
