"""Renews a stamp whose change was committed, in case that whoever made the change could not."""

from typing import Any
from uuid import UUID

from app.core.stamps import Stamps
from app.jobs.registry import TenantJob, tenant_job
from app.services.changes import RENEW_STAMP


@tenant_job(RENEW_STAMP)
async def renew_stamp(job: TenantJob, payload: dict[str, Any]) -> None:
    """Have every server load the tenant, or the user `user_id`, anew. Raises `RedisAway`, and is tried again, until Redis has it."""
    user_id = payload["user_id"]
    await Stamps(job.tools.redis).put(job.tenant_id, UUID(user_id) if user_id else None)
