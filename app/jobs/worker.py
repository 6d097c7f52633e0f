"""The background worker: `python -m app.jobs.worker`. Several may run at once. SIGTERM lets it finish what it holds."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable

import structlog

from app.config import Settings, get_settings
from app.core.redis import RedisAway
from app.database import UnsafeRole
from app.database_faults import DatabaseFault
from app.jobs.view_counts import flush_view_counts
from app.services.container import Services
from app.utils.logging import configure_logging
from app.utils.metrics import serve_metrics

log = structlog.get_logger(__name__)


async def repeat(name: str, seconds: float, job: Callable[[], Awaitable[object]], stopping: asyncio.Event) -> None:
    """Run a job every so many seconds until told to stop, and once more then. A fault of a server behind it is logged, and the job tried again."""
    while True:
        last = stopping.is_set()
        try:
            await job()
        except (DatabaseFault, RedisAway, TimeoutError) as error:
            log.warning("job failed, will be tried again", job=name, error=type(error).__name__)
        if last:
            return
        try:
            async with asyncio.timeout(seconds):
                await stopping.wait()
        except TimeoutError:
            pass


async def work(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT. Raises `UnsafeRole`."""
    services = Services.from_settings(settings)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    log.info("worker started")
    try:
        await repeat("flush view counts", settings.view_flush_seconds, lambda: flush_view_counts(services.database, services.redis), stopping)
    finally:
        await services.close()
    log.info("worker stopped")


def main() -> None:
    """Run the worker."""
    settings = get_settings()
    configure_logging(settings.log_format, settings.log_level)
    if settings.worker_metrics_port is not None:
        serve_metrics(settings.metrics_host, settings.worker_metrics_port)
    try:
        asyncio.run(work(settings))
    except UnsafeRole as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
