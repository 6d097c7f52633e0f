"""Runs the API: `python -m app.server --host 127.0.0.1 --port 8000`."""

import asyncio
import gc
import signal
import sys
from types import FrameType
from typing import Annotated, Any, cast

import structlog
import typer
import uvicorn
from pydantic import ValidationError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.config import get_settings
from app.services.container import Readiness

log = structlog.get_logger(__name__)

# A half-sent body would otherwise hold a stopping process for ever.
GRACEFUL_SECONDS = 20
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


class WholeAnswers:
    """A connection's transport that keeps the head of an answer back until its body is there: one call to the kernel and one packet, not two of each."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._call_soon = asyncio.get_running_loop().call_soon
        self._head = b""

    def write(self, data: bytes) -> None:
        """Write the data, now if something was kept back, or else by the end of this turn of the event loop."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        else:
            self._head = data
            self._call_soon(self._flush)

    def close(self) -> None:
        """Close the connection once all is written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        head, self._head = self._head, b""
        # The client may have gone meanwhile.
        if head and not self._transport.is_closing():
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Protocol(HttpToolsProtocol):
    """HTTP as uvicorn speaks it, in whole answers."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Take a new connection."""
        super().connection_made(cast("asyncio.Transport", WholeAnswers(transport)))


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
    except ValidationError as error:
        sys.exit("; ".join(f"{'.'.join(map(str, item['loc']))} {item['msg']}".strip() for item in error.errors()))
    from app.main import app  # noqa: PLC0415 (makes the application, and so wants settings that are fit)

    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=Protocol,
        lifespan="on",
        access_log=False,
        log_config=None,
        # The application looks at X-Forwarded-* itself, and only from TRUSTED_PROXIES.
        proxy_headers=False,
        server_header=False,
        date_header=True,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )
    spare_the_collector()
    DrainingServer(config, app.state.services.readiness, settings.drain_seconds).run()


if __name__ == "__main__":
    typer.run(main)
