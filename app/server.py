"""Runs the API: `python -m app.server --host 127.0.0.1 --port 8000`."""

import asyncio
import signal
from types import FrameType
from typing import Annotated

import structlog
import typer
import uvicorn

from app.config import get_settings
from app.main import app
from app.services.container import Readiness

log = structlog.get_logger(__name__)

# A half-sent body would otherwise hold a stopping process for ever.
GRACEFUL_SECONDS = 20


class DrainingServer(uvicorn.Server):
    """A server that, told to stop, first says so on /health/ready and goes on serving while load balancers notice."""

    def __init__(self, config: uvicorn.Config, readiness: Readiness, drain_seconds: float) -> None:
        super().__init__(config)
        self._readiness = readiness
        self._drain_seconds = drain_seconds
        self._draining = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; at a second signal, or at once where nothing is to be waited for, stop."""
        self._readiness.ready = False
        if self._draining or self._drain_seconds == 0 or sig == signal.SIGINT:
            super().handle_exit(sig, frame)
            return
        self._draining = True
        log.info("draining", seconds=self._drain_seconds)
        asyncio.get_running_loop().call_later(self._drain_seconds, super().handle_exit, sig, frame)


def main(
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on", min=0, max=65535)] = 8000,
) -> None:
    """Serve the API. For more than one core, run several behind a load balancer."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        access_log=False,
        log_config=None,
        # The application looks at X-Forwarded-* itself, and only from TRUSTED_PROXIES.
        proxy_headers=False,
        server_header=False,
        date_header=True,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )
    DrainingServer(config, app.state.services.readiness, get_settings().drain_seconds).run()


if __name__ == "__main__":
    typer.run(main)
