"""Deletes what is due: of each tenant by a job of its own, and what belongs to no tenant by one more. In batches, so that no statement takes long."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import CursorResult, Delete, Executable, delete, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.elements import ColumnElement

from app.core.queue import enqueue
from app.jobs.registry import TenantJob, WorldwideJob, tenant_job, worldwide_job
from app.models import RECOVERABLE_DAYS, Invitation, Mail, MailState, OneTimeToken, Project, Resource, Session, SpentChallenge, Tenant, TenantModel, ViewBatch
from app.services.mail import SEND_MAIL
from app.services.places import RESET_REMEMBERED

PURGE_TENANTS, PURGE_TENANT, PURGE_WORLDWIDE = "purge_tenants", "purge_tenant", "purge_worldwide"
BATCH = 1000
# Sessions that have ended still tell at a sign-in which places are known.
SESSION_DAYS = 90
MAIL_DAYS = 30

# The newest stays: its batch may still be in Redis, however long that has been away.
VIEW_BATCHES = delete(ViewBatch).where(
    ViewBatch.id.in_(
        select(ViewBatch.id)
        .where(ViewBatch.created_at < func.now() - timedelta(days=1), ViewBatch.created_at < select(func.max(ViewBatch.created_at)).scalar_subquery())
        .limit(BATCH)
    )
)
SPENT_CHALLENGES = delete(SpentChallenge).where(
    SpentChallenge.digest.in_(select(SpentChallenge.digest).where(SpentChallenge.expires_at < func.now()).limit(BATCH))
)
# Why a job failed is kept for a week, and as long as the job itself; that it was queued, taken and done, for an hour.
QUEUE_LOG = text(f"""
DELETE FROM jobs.pgqueuer_log WHERE id IN (
    SELECT id FROM jobs.pgqueuer_log entry
    WHERE created < now() - interval '1 hour' AND (traceback IS NULL OR created < now() - interval '7 days')
    AND (traceback IS NULL OR NOT EXISTS (SELECT FROM jobs.pgqueuer WHERE id = entry.job_id))
    ORDER BY created LIMIT {BATCH})
""")  # noqa: S608 (a number of ours)
# As bytes: not every payload in the queue need be text.
WITHOUT_JOB = text(
    "NOT EXISTS (SELECT FROM jobs.pgqueuer job WHERE job.entrypoint = :send_mail AND position(convert_to(mails.id::text, 'UTF8') IN job.payload) > 0)"
).bindparams(send_mail=SEND_MAIL)


@worldwide_job(PURGE_WORLDWIDE)
async def purge_worldwide(job: WorldwideJob, payload: dict[str, Any]) -> None:
    """Delete what is due and belongs to no tenant: solved challenges, records of batches of views, and PgQueuer's log."""
    for statement in (SPENT_CHALLENGES, VIEW_BATCHES, QUEUE_LOG):
        await _repeat(job.transaction, statement)


@worldwide_job(PURGE_TENANTS)
async def purge_tenants(job: WorldwideJob, payload: dict[str, Any]) -> None:
    """Enqueue a job for each tenant, suspended or not. A tenant whose last one still waits gets no second."""
    last = UUID(int=0)
    while True:
        async with job.transaction() as session:
            tenant_ids = list((await session.scalars(select(Tenant.id).where(Tenant.id > last).order_by(Tenant.id).limit(BATCH))).all())
            if not tenant_ids:
                return
            await enqueue(session, PURGE_TENANT, [{}] * len(tenant_ids), tenant_ids, unless_waiting=True)
        last = tenant_ids[-1]


@tenant_job(PURGE_TENANT)
async def purge_tenant(job: TenantJob, payload: dict[str, Any]) -> None:
    """Delete what is due of a tenant: projects past restoring with their resources, tokens, invitations, sessions and mails."""
    now, tenant_id = func.now(), job.tenant_id
    past_restoring = Project.deleted_at < now - timedelta(days=RECOVERABLE_DAYS)
    projects = select(Project.id).where(Project.tenant_id == tenant_id, past_restoring)
    ended = now - timedelta(days=SESSION_DAYS)
    due: tuple[tuple[type[TenantModel], ColumnElement[bool]], ...] = (
        # Before their projects: to delete a project with very many of them would be one long statement.
        (Resource, Resource.project_id.in_(projects)),
        (Project, past_restoring),
        # A used one tells for a while where its user is known.
        (OneTimeToken, (OneTimeToken.expires_at < now) & or_(OneTimeToken.used_at.is_(None), OneTimeToken.used_at < now - RESET_REMEMBERED)),
        (Invitation, Invitation.expires_at < now),
        (Session, or_(Session.expires_at < ended, Session.revoked_at < ended)),
        (Mail, (Mail.state != MailState.WAITING) & (Mail.finished_at < now - timedelta(days=MAIL_DAYS))),
        # Whoever deletes a job by hand leaves its mail, with the address.
        (Mail, (Mail.state == MailState.WAITING) & (Mail.created_at < now - timedelta(days=MAIL_DAYS)) & WITHOUT_JOB),
    )
    for model, condition in due:
        await _repeat(job.transaction, _deletion(model, tenant_id, condition))


def _deletion(model: type[TenantModel], tenant_id: UUID, condition: ColumnElement[bool]) -> Delete:
    some = select(model.id).where(model.tenant_id == tenant_id, condition).limit(BATCH)
    return delete(model).where(model.tenant_id == tenant_id, model.id.in_(some)).execution_options(synchronize_session=False)


async def _repeat(transaction: Callable[[], AbstractAsyncContextManager[AsyncSession]], statement: Executable) -> None:
    """Run a deletion, each time in a transaction of its own, until it finds less than a whole batch."""
    while True:
        async with transaction() as session:
            result = await session.execute(statement)
        if not isinstance(result, CursorResult) or result.rowcount < BATCH:
            return
