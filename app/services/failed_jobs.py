"""The queue as an operator sees it: which jobs there are, and sending those again, or discarding them, that failed for good."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pgqueuer.adapters.persistence.qb import QueryQueueBuilder
from sqlalchemy import Connection, Engine, func, select, text, update
from sqlalchemy.exc import IntegrityError

from app.core.queue import QUEUE_SETTINGS
from app.models import Mail, MailState, Tenant
from app.services.mail import SEND_MAIL

# What is stored of an error is the name of its class; see app/jobs/runner.py.
JOBS = text("""
SELECT id, entrypoint, payload, status::text AS state, attempts, created, execute_after,
       (SELECT traceback->>'exception_message' FROM jobs.pgqueuer_log WHERE job_id = job.id AND traceback IS NOT NULL ORDER BY created DESC, id DESC LIMIT 1)
       AS last_error
FROM jobs.pgqueuer job WHERE status = 'failed' OR NOT :failed_only ORDER BY id LIMIT :most
""")
COUNT = text("SELECT count(*) FROM jobs.pgqueuer WHERE status = 'failed' OR NOT :failed_only")
FAILED = text("SELECT id FROM jobs.pgqueuer WHERE status = 'failed' ORDER BY id")
JOB = text("SELECT entrypoint, payload FROM jobs.pgqueuer WHERE id = :id")
DISCARD = text("DELETE FROM jobs.pgqueuer WHERE id = :id AND status = 'failed' RETURNING entrypoint, payload")
REQUEUE = QueryQueueBuilder(QUEUE_SETTINGS).build_requeue_jobs_query().replace("$1", "%(ids)s")


@dataclass(frozen=True)
class QueuedJob:
    """A job in the queue. `tenant` is a slug, or empty; `next_try` is None where none will come by itself."""

    id: int
    kind: str
    tenant: str
    state: str
    attempts: int
    since: datetime
    next_try: datetime | None
    last_error: str


def count_jobs(connection: Connection, *, failed_only: bool) -> int:
    """Return how many jobs are in the queue."""
    return int(connection.execute(COUNT, {"failed_only": failed_only}).scalar_one())


def read_jobs(connection: Connection, *, failed_only: bool, most: int) -> list[QueuedJob]:
    """Return the jobs in the queue, oldest first, so many of them at the most."""
    rows = connection.execute(JOBS, {"failed_only": failed_only, "most": most}).all()
    tenants = {row.id: _tenant_of(row.payload) for row in rows}
    known = select(Tenant.id, Tenant.slug).where(Tenant.id.in_({tenant_id for tenant_id in tenants.values() if tenant_id}))
    slugs: dict[UUID | None, str] = {tenant.id: tenant.slug for tenant in connection.execute(known)}
    return [
        QueuedJob(
            id=row.id,
            kind=row.entrypoint,
            tenant=slugs.get(tenants[row.id], ""),
            state=row.state,
            # A try that failed for good is not counted by PgQueuer.
            attempts=row.attempts + (row.state == "failed"),
            since=row.created,
            next_try=row.execute_after if row.state == "queued" else None,
            last_error=row.last_error or "",
        )
        for row in rows
    ]


def _tenant_of(payload: bytes | None) -> UUID | None:
    """Return the tenant that a payload names, where it is well-formed and names one."""
    return _identifier_in(payload, "tenant_id")


def _identifier_in(payload: bytes | None, name: str) -> UUID | None:
    try:
        return UUID(json.loads(bytes(payload or b""))[name])
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def send_again(engine: Engine, ids: Sequence[int] | None) -> tuple[list[int], list[int]]:
    """Put failed jobs back into the queue, all of them where none are named.

    Returns which were, and which were not because the same job waits already.
    """
    with engine.connect() as connection:
        failed = list(connection.scalars(FAILED))
    sent, waiting = [], []
    for job_id in failed:
        if ids is None or job_id in ids:
            try:
                with engine.begin() as connection:
                    connection.exec_driver_sql(REQUEUE, {"ids": [job_id]})
                    _forget_silences(connection, job_id)
                sent.append(job_id)
            except IntegrityError:
                waiting.append(job_id)
    return sent, waiting


def _forget_silences(connection: Connection, job_id: int) -> None:
    """Where the job sends a mail, let it have as many tries as a new one."""
    job = connection.execute(JOB, {"id": job_id}).one()
    if job.entrypoint == SEND_MAIL and (mail := _mail_of(job.payload)):
        connection.execute(update(Mail).where(Mail.tenant_id == mail[0], Mail.id == mail[1]).values(unanswered=0))


def _mail_of(payload: bytes | None) -> tuple[UUID, UUID] | None:
    tenant_id, mail_id = _tenant_of(payload), _identifier_in(payload, "mail_id")
    return (tenant_id, mail_id) if tenant_id and mail_id else None


def discard(engine: Engine, ids: Sequence[int] | None) -> list[int]:
    """Delete failed jobs, all of them where none are named; their mails are dropped. Returns which were."""
    with engine.connect() as connection:
        failed = [job_id for job_id in connection.scalars(FAILED) if ids is None or job_id in ids]
    return [job_id for job_id in failed if _discard(engine, job_id)]


def _discard(engine: Engine, job_id: int) -> bool:
    with engine.begin() as connection:
        job = connection.execute(DISCARD, {"id": job_id}).one_or_none()
        if job is None:
            return False
        if job.entrypoint == SEND_MAIL and (mail := _mail_of(job.payload)):
            dropping = update(Mail).where(Mail.tenant_id == mail[0], Mail.id == mail[1], Mail.state == MailState.WAITING)
            connection.execute(dropping.values(state=MailState.DROPPED, finished_at=func.now()))
    return True
