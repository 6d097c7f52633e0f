"""The background worker: `python -m app.jobs.worker`. Several may run at once. SIGTERM lets it finish what it holds."""

import asyncio
import os
import signal
import sys
import threading
from dataclasses import dataclass
from datetime import timedelta

import structlog
from pgqueuer.core.qm import QueueManager
from pgqueuer.core.sm import SchedulerManager
from sqlalchemy import text

from app.config import BadSettings, Settings, get_settings
from app.core.queue import queries_on
from app.database import UnsafeRole
from app.database_faults import DatabaseFault
from app.jobs.connection import QueueConnection
from app.jobs.kinds import registered
from app.jobs.registry import Dispatcher, Tools
from app.jobs.runner import JobRunner
from app.jobs.schedule import add_schedule, schedule_of
from app.services.container import JOBS_AT_ONCE, Services, log_connections, worker_pool
from app.utils import metrics
from app.utils.logging import configure_logging
from app.utils.mailer import Mailer
from app.utils.metrics import MetricsUnavailable, serve_metrics

# As many as a worker takes at a time.
BATCH_SIZE = 10
PAUSE_SECONDS, OBSERVE_SECONDS = 1.0, 30.0
QUEUE_STATE = text("""
SELECT count(*) FILTER (WHERE status = 'failed'),
       coalesce(extract(epoch FROM now() - min(execute_after) FILTER (WHERE status = 'queued' AND execute_after <= now())), 0) FROM jobs.pgqueuer
""")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Pace:
    """How quick a worker is, in seconds.

    A job whose worker has given no sign of life for `heartbeat` is taken over by another, which looks every `poll`. Told to stop, a worker goes on with
    what it holds for `deadline`, puts back into the queue what is still not done, and ends after `latest` even if that cannot be done.
    """

    heartbeat: float = 10.0
    poll: float = 5.0
    deadline: float = 20.0
    latest: float = 24.0


PACE = Pace()


class Worker:
    """Takes jobs and does them, and enqueues those that the clock demands."""

    def __init__(self, settings: Settings, services: Services, pace: Pace) -> None:
        self._schedule = schedule_of(settings)
        self._pace = pace
        self._database = services.database
        self._connection = QueueConnection(settings.listen_url, connect_timeout=settings.database_connect_timeout)
        tools = Tools(settings, services.redis, services.throttle, services.derived_tokens, Mailer(settings.smtp_url, settings.mail_from))
        self._dispatcher = Dispatcher(services.database, tools)
        self._runner = JobRunner(self._dispatcher)

    async def work(self, stopping: asyncio.Event) -> None:
        """Work until told to stop, whatever fails meanwhile."""
        observing = asyncio.create_task(self._observe())
        while not stopping.is_set():
            try:
                await self._work_once(stopping)
            except DatabaseFault as fault:
                log.warning("the queue was left without a word, its jobs will be taken over", error=type(fault).__name__)
            except Exception:
                log.exception("the queue failed, will be started again")
                self._connection.forget_listeners()
                await asyncio.sleep(PAUSE_SECONDS)
        observing.cancel()
        await asyncio.wait([observing])
        await self._connection.close()

    async def _work_once(self, stopping: asyncio.Event) -> None:
        queries = queries_on(self._connection)
        jobs, clock = QueueManager(queries), SchedulerManager(queries)
        for kind in registered():
            jobs.register_executor(kind, self._runner)
        add_schedule(clock, self._schedule, self._dispatcher.worldwide())
        stop = asyncio.create_task(stopping.wait())
        pace = self._pace
        running = [
            asyncio.create_task(
                jobs.run(
                    dequeue_timeout=timedelta(seconds=pace.poll),
                    batch_size=BATCH_SIZE,
                    max_concurrent_tasks=JOBS_AT_ONCE,
                    heartbeat_timeout=timedelta(seconds=pace.heartbeat),
                    shutdown_on_listener_failure=True,
                    # Its statistics are read by nobody: see the metrics of this process.
                    log_aggregation_interval=timedelta(0),
                )
            ),
            asyncio.create_task(clock.run()),
        ]
        await asyncio.wait([stop, *running], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        # Never cancelled: PgQueuer would drop the jobs that are being done.
        jobs.shutdown.set()
        clock.shutdown.set()
        if stopping.is_set():
            await self._finish(running)
        await asyncio.wait(running)
        for task in running:
            task.result()

    async def _finish(self, running: list[asyncio.Task[None]]) -> None:
        """Let what is being done come to its end, within the deadline."""
        if self._runner.is_idle:
            self._connection.lose_patience()
        _, late = await asyncio.wait(running, timeout=self._pace.deadline)
        if late:
            self._runner.interrupt()
            self._connection.lose_patience()

    async def _observe(self) -> None:
        """Tell Prometheus of the queue, now and then."""
        while True:
            try:
                async with self._database.transaction(None) as session:
                    failed, oldest = (await session.execute(QUEUE_STATE)).one()
                metrics.FAILED_JOBS.set(failed)
                metrics.OLDEST_JOB.set(float(oldest))
            except (DatabaseFault, UnsafeRole) as fault:
                log.warning("the queue cannot be observed", error=type(fault).__name__)
            await asyncio.sleep(OBSERVE_SECONDS)


async def work(settings: Settings, pace: Pace) -> None:
    """Work until SIGTERM or SIGINT. Raises `UnsafeRole`."""
    services = Services.from_settings(settings)
    stopping = asyncio.Event()

    def stop() -> None:
        stopping.set()
        # Whatever hangs: a thread, a server. Jobs that are left are taken over.
        watchdog = threading.Timer(pace.latest, os._exit, (1,))
        watchdog.daemon = True
        watchdog.start()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        await _wait_for_database(services, stopping)
        log.info("worker started", kinds=registered())
        await Worker(settings, services, pace).work(stopping)
    finally:
        await services.close()
    log.info("worker stopped")


async def _wait_for_database(services: Services, stopping: asyncio.Event) -> None:
    """Wait until PostgreSQL is there and has let the role be checked, and log how many connections this process takes."""
    while not stopping.is_set():
        try:
            await log_connections(services, besides=1)
        except DatabaseFault as fault:
            log.warning("PostgreSQL is away, will be tried again", error=type(fault).__name__)
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            return


def main(pace: Pace = PACE) -> None:
    """Run a worker."""
    try:
        settings = get_settings()
        if settings.worker_metrics_port is not None:
            serve_metrics(settings.metrics_host, settings.worker_metrics_port, "WORKER_METRICS_PORT")
    except (BadSettings, MetricsUnavailable) as error:
        sys.exit(str(error))
    configure_logging(settings.log_format, settings.log_level)
    try:
        asyncio.run(work(settings.model_copy(update=worker_pool(settings)), pace))
    except UnsafeRole as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
