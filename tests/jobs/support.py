"""Workers as real processes, and jobs done within the test."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import SecretStr

import app.jobs.kinds  # noqa: F401 (so that jobs of every kind can be done)
from app.core.queue import enqueue
from app.jobs.registry import Dispatcher, Tools
from app.jobs.view_counts import ADD_VIEWS, FLUSH_VIEW_COUNTS
from app.services.container import Services
from app.utils.mailer import Mailer
from tests.factories import Factory
from tests.faults.support import Process, eventually

WORKER = ["-m", "app.jobs.worker"]
# The same, with kinds of jobs for tests alone, and less patience.
QUICK_WORKER = ["-m", "tests.jobs.quick_worker"]


def dispatcher_of(services: Services, smtp_url: SecretStr | None = None) -> Dispatcher:
    """What a worker with these services gives jobs to. Its mail goes to the given server, or where the settings say."""
    mailer = Mailer(smtp_url or services.settings.smtp_url, services.settings.mail_from)
    return Dispatcher(services.database, Tools(services.settings, services.redis, services.throttle, services.derived_tokens, mailer))


async def flush(services: Services) -> None:
    """Do the job that turns buffered views into jobs, as a worker with these services."""
    await dispatcher_of(services).dispatch(FLUSH_VIEW_COUNTS, 0, b"{}")


async def waiting(factory: Factory, kind: str) -> list[tuple[int, bytes]]:
    """The identifiers and payloads of the jobs of a kind that are in the queue, whatever their state."""
    return [(number, payload) for number, payload in await factory.run("SELECT id, payload FROM jobs.pgqueuer WHERE entrypoint = :kind ORDER BY id", kind=kind)]


async def add_views(services: Services, factory: Factory) -> None:
    """Do the jobs that a flush has left, as a worker with these services."""
    for number, payload in await waiting(factory, ADD_VIEWS):
        await dispatcher_of(services).dispatch(ADD_VIEWS, number, payload)


async def add(services: Services, kind: str, *payloads: dict[str, Any], tenant_id: UUID | None = None) -> None:
    """Enqueue jobs, committed."""
    async with services.database.transaction(tenant_id) as session:
        await enqueue(session, kind, payloads, [tenant_id] * len(payloads))


async def said(worker: Process, event: str, times: int = 1) -> None:
    """Wait until the worker has logged an event."""

    async def it_did() -> bool:
        assert worker.exit_code is None, worker.output
        return [line["event"] for line in worker.lines].count(event) >= times

    await eventually(it_did)


async def started(folder: Path, environment: dict[str, str], number: int = 2, arguments: Sequence[str] = WORKER) -> list[Process]:
    """Start workers, and wait until they work. Whoever calls this ends them."""
    workers = [Process(folder / str(count), arguments, environment) for count in range(number)]
    await asyncio.gather(*(said(worker, "worker started") for worker in workers))
    return workers
