"""What becomes of a job that failed, was interrupted, or cancelled."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from pgqueuer.domain.errors import RetryRequested
from pgqueuer.domain.models import Context, Job, TracebackRecord
from pgqueuer.domain.types import JobId, QueueEntrypoint

import app.jobs.runner
from app.database import UnsafeRole
from app.jobs.registry import WORLDWIDE_JOBS, GiveUp, PutOff, WorldwideJob, worldwide_job
from app.jobs.runner import LONGEST_PAUSE, MOST_TRIES, JobFailed, JobRunner, pause_after
from app.services.container import Services
from tests.factories import Factory
from tests.jobs.support import dispatcher_of

SECRET = "somebody@example.com"


class Raises:
    """The work of a kind that raises what it is told to."""

    error: BaseException | None = None

    async def __call__(self, job: WorldwideJob, payload: dict[str, Any]) -> None:
        if self.error is not None:
            raise self.error
        await asyncio.sleep(60)


@pytest.fixture
async def work() -> AsyncIterator[Raises]:
    made = Raises()
    worldwide_job("test_raise")(made)
    yield made
    del WORLDWIDE_JOBS["test_raise"]


@pytest.fixture
def runner(services: Services) -> JobRunner:
    return JobRunner(dispatcher_of(services))


def job(attempts: int = 0) -> Job:
    now = datetime.now(UTC)
    return Job(
        id=JobId(1),
        priority=0,
        created=now,
        updated=now,
        heartbeat=now,
        execute_after=now,
        status="picked",
        entrypoint=QueueEntrypoint("test_raise"),
        payload=b"{}",
        queue_manager_id=None,
        headers=None,
        attempts=attempts,
    )


def context() -> Context:
    return Context(cancellation=anyio.CancelScope())


def test_pauses_grow_to_ten_minutes_and_the_last_try_comes_after_about_a_day() -> None:
    pauses = [pause_after(attempts) for attempts in range(MOST_TRIES - 1)]
    assert pauses[:11] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600]
    assert max(pauses) == LONGEST_PAUSE == 600
    assert timedelta(hours=23, minutes=45) < timedelta(seconds=sum(pauses)) < timedelta(hours=24, minutes=15)


async def test_an_error_is_a_retry_that_names_its_class_and_holds_nothing_else(runner: JobRunner, work: Raises) -> None:
    work.error = ConnectionRefusedError(SECRET)
    with pytest.raises(RetryRequested) as raised:
        await runner.execute(job(3), context())
    assert (raised.value.delay, raised.value.reason) == (timedelta(seconds=8), "ConnectionRefusedError")
    assert SECRET not in TracebackRecord.from_exception(raised.value, JobId(1)).model_dump_json()


@pytest.mark.parametrize("error, attempts", [(GiveUp(SECRET), 0), (ConnectionRefusedError(SECRET), MOST_TRIES - 1)])
async def test_a_job_that_gives_up_and_one_that_failed_for_a_day_have_failed_for_good(runner: JobRunner, work: Raises, error: Exception, attempts: int) -> None:
    work.error = error
    with pytest.raises(JobFailed, match=f"^{type(error).__name__}$") as raised:
        await runner.execute(job(attempts), context())
    assert SECRET not in TracebackRecord.from_exception(raised.value, JobId(1)).model_dump_json()
    assert runner.parameters.on_failure == "hold"


async def test_the_try_before_the_last_is_followed_by_another(runner: JobRunner, work: Raises) -> None:
    work.error = TimeoutError()
    with pytest.raises(RetryRequested):
        await runner.execute(job(MOST_TRIES - 2), context())


@pytest.mark.parametrize("attempts", [0, MOST_TRIES - 1, 1000])
async def test_a_job_that_is_put_off_comes_back_when_it_says_and_has_not_failed(runner: JobRunner, work: Raises, factory: Factory, attempts: int) -> None:
    insert = "INSERT INTO jobs.pgqueuer (id, priority, status, entrypoint, attempts) VALUES (1, 0, 'picked', 'test_raise', :attempts)"
    await factory.run(insert, attempts=attempts)
    work.error = PutOff(7)
    with pytest.raises(RetryRequested) as raised:
        await runner.execute(job(attempts), context())
    assert (raised.value.delay, raised.value.reason) == (timedelta(seconds=7), "PutOff")
    # PgQueuer adds one.
    assert await factory.run("SELECT attempts FROM jobs.pgqueuer WHERE id = 1") == [(attempts - 1,)]


async def test_a_job_that_is_put_off_comes_back_whatever_keeps_it_from_being_uncounted(
    runner: JobRunner, work: Raises, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unsafe(*_: object) -> None:
        raise UnsafeRole("saas_service is a superuser")

    monkeypatch.setattr(app.jobs.runner, "uncount_attempt", unsafe)
    work.error = PutOff(7)
    with pytest.raises(RetryRequested):
        await runner.execute(job(0), context())


async def test_an_interrupted_job_and_a_cancelled_one_are_due_at_once(runner: JobRunner, work: Raises) -> None:
    """Not cancelled: PgQueuer would drop it."""
    running = [asyncio.create_task(runner.execute(job(), context())) for _ in range(2)]
    await asyncio.sleep(0)
    assert not runner.is_idle
    running[0].cancel()
    await asyncio.sleep(0)
    runner.interrupt()
    outcomes = await asyncio.gather(*running, return_exceptions=True)
    assert [(type(outcome), getattr(outcome, "delay", None)) for outcome in outcomes] == [(RetryRequested, timedelta(0))] * 2
    assert runner.is_idle
