"""Every kind of job that a worker does: importing a module registers its kinds."""

from app.jobs import mail, purge, stamps, view_counts
from app.jobs.registry import TENANT_JOBS, WORLDWIDE_JOBS

MODULES = (mail, purge, stamps, view_counts)


def registered() -> list[str]:
    """Return the kinds of jobs that this process can do."""
    return sorted((*TENANT_JOBS, *WORLDWIDE_JOBS))
