"""Runs the API: `python -m app.server --host 127.0.0.1 --port 8000`."""

import asyncio
import gc
import signal
import sys
from types import FrameType
from typing import Annotated

import structlog
import typer
import uvicorn

from app.config import BadSettings, get_settings
from app.services.container import Readiness
from app.utils.metrics import MetricsUnavailable, serve_metrics
from app.wire.protocol import Protocol

log = structlog.get_logger(__name__)

# A half-sent body would otherwise hold a stopping process for ever.
GRACEFUL_SECONDS = 20
# Longer than load balancers keep a connection that is not used, which is a minute with most: one that we close just as they send is a failure to them.
KEEP_ALIVE_SECONDS = 75
# New objects, then collections of each younger generation, before one is collected.
COLLECT_AFTER = (10_000, 20, 20)


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
            self._stop()
            return
        self._draining = True
        log.info("draining", seconds=self._drain_seconds)
        asyncio.get_running_loop().call_later(self._drain_seconds, self._stop)

    def _stop(self) -> None:
        # Not by uvicorn's own handler: it raises the signal again once all is done, and being told to stop is no failure.
        self.force_exit = self.should_exit
        self.should_exit = True


def spare_the_collector() -> None:
    """Have the garbage collector leave alone what was made at start, and look less often at what comes after.

    Modules, routes and schemas live as long as the process. Looked through again and again they cost 90 ms a time, about once a second under load.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def main(
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on", min=0, max=65535)] = 8000,
) -> None:
    """Serve the API. For more than one core, run several behind a load balancer."""
    try:
        settings = get_settings()
        if settings.metrics_port is not None:
            serve_metrics(settings.metrics_host, settings.metrics_port, "METRICS_PORT")
    except (BadSettings, MetricsUnavailable) as error:
        sys.exit(str(error))
    from app.main import app  # noqa: PLC0415 (makes the application, and so wants settings that are fit)

    Protocol.client_seconds = settings.body_timeout
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=Protocol,
        # Left to uvicorn, a handshake is refused past all middleware, and in another form.
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        # The application looks at X-Forwarded-* itself, and only from TRUSTED_PROXIES.
        proxy_headers=False,
        server_header=False,
        date_header=True,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )
    spare_the_collector()
    DrainingServer(config, app.state.services.readiness, settings.drain_seconds).run()


if __name__ == "__main__":
    typer.run(main)
