"""Does one job, and decides what becomes of it: done, tried again after a pause, or kept as failed."""

import asyncio
import traceback
from contextlib import suppress
from datetime import timedelta

import structlog
from pgqueuer.core.executors import AbstractEntrypointExecutor, EntrypointExecutorParameters
from pgqueuer.domain.errors import RetryRequested
from pgqueuer.domain.models import Context, Job

from app.core.queue import uncount_attempt
from app.jobs.registry import AlreadyDone, Dispatcher, GiveUp, PutOff
from app.utils import metrics

LONGEST_PAUSE = 600
# With pauses of 1, 2, 4, … 512 and then always 600 seconds, the last try comes a day after the first.
MOST_TRIES = 153

log = structlog.get_logger(__name__)


class JobFailed(Exception):
    """A job failed for good. PgQueuer stores this exception's text, so it names the class of the error and nothing more."""


class JobRunner(AbstractEntrypointExecutor):
    """Does jobs of every kind for PgQueuer.

    PgQueuer stores the text and the traceback of whatever it is given, and drops a job that is cancelled. So it is given none of our exceptions: only
    that a job is to be tried again, or has failed, and the name of the error's class.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__(EntrypointExecutorParameters(concurrency_limit=0, func=self.execute, on_failure="hold"))
        self._dispatcher = dispatcher
        self._running: set[asyncio.Timeout] = set()

    @property
    def is_idle(self) -> bool:
        """Whether no job is being done."""
        return not self._running

    def interrupt(self) -> None:
        """Break off every job that is being done, and put it back into the queue, due at once."""
        while self._running:
            self._running.pop().reschedule(0)

    async def execute(self, job: Job, context: Context) -> None:
        """Do a job. Raises `RetryRequested` or `JobFailed` where it was not done."""
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._running.add(limit)
                try:
                    await self._dispatcher.dispatch(job.entrypoint, job.id, job.payload)
                finally:
                    self._running.discard(limit)
        except AlreadyDone:
            log.info("job was done by another worker meanwhile", job_id=job.id, kind=job.entrypoint)
        except PutOff as off:
            raise await self._put_off(job, off.seconds) from None
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 (whatever a job raises is dealt with here)
            interrupted = limit.expired() or isinstance(error, asyncio.CancelledError)
            raise _interrupted(job) if interrupted else _consequence(job, error) from None
        else:
            metrics.JOBS.labels(job.entrypoint, "done").inc()

    async def _put_off(self, job: Job, seconds: int) -> Exception:
        """Return what has PgQueuer take a job up again later. That it is not its time yet is no failure, and so not counted as a try."""
        log.debug("job put off", job_id=job.id, kind=job.entrypoint, pause_seconds=seconds)
        metrics.JOBS.labels(job.entrypoint, "put_off").inc()
        # Whatever comes up: a try too many does little harm, and PgQueuer is given none of our exceptions.
        with suppress(Exception):
            async with self._dispatcher.worldwide().transaction() as session:
                await uncount_attempt(session, job.id)
        return RetryRequested(timedelta(seconds=seconds), PutOff.__name__)


def _interrupted(job: Job) -> Exception:
    log.warning("job interrupted, goes back into the queue", job_id=job.id, kind=job.entrypoint, attempt=job.attempts + 1)
    metrics.JOBS.labels(job.entrypoint, "interrupted").inc()
    return RetryRequested(timedelta(0), "Interrupted")


def _consequence(job: Job, error: BaseException) -> Exception:
    """Log an error, without its text, which may hold an address. Returns what PgQueuer is told."""
    name = type(error).__name__
    told = log.bind(job_id=job.id, kind=job.entrypoint, attempt=job.attempts + 1, error=name, cause=_cause(error), at=_places(error))
    if isinstance(error, GiveUp) or job.attempts + 1 >= MOST_TRIES:
        told.error("job failed for good, kept for an operator")
        metrics.JOBS.labels(job.entrypoint, "failed").inc()
        return JobFailed(name)
    pause = pause_after(job.attempts)
    told.warning("job failed, will be tried again", pause_seconds=pause)
    metrics.JOBS.labels(job.entrypoint, "retried").inc()
    return RetryRequested(timedelta(seconds=pause), name)


def pause_after(attempts: int) -> int:
    """Return the seconds until the next try, after so many tries that failed before this one."""
    return int(min(2**attempts, LONGEST_PAUSE))


def _cause(error: BaseException) -> str | None:
    cause = error.__cause__ or error.__context__
    return type(cause).__name__ if cause is not None else None


def _places(error: BaseException) -> list[str]:
    return [f"{frame.filename.rpartition('/app/')[2]}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)[-4:]]
