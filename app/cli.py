"""The operator's command line: `python -m app.cli --help`. Connects as the owner's role, DATABASE_ADMIN_URL."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from redis import Redis
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import Engine, create_engine, func, select, update
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.orm import Session as OrmSession

from app.config import Settings, get_settings
from app.core.queue import enqueue_on
from app.core.stamps import STAMP_MILLISECONDS, stamp_key
from app.models import Project, Tenant, Tier, User, new_id
from app.services.changes import BEFORE_ALL_ELSE, RENEW_STAMP, change_of
from app.services.demo import DEMO_PASSWORD, DEMO_SLUG, DEMO_USERS
from app.services.doctor import examine
from app.services.failed_jobs import count_jobs, discard, read_jobs, send_again
from app.services.roles import prepare_database
from app.services.seeding import seed_demo as seed

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Operate the service.")
database = typer.Typer(no_args_is_help=True, help="The database itself.")
tenants = typer.Typer(no_args_is_help=True, help="Tenants: what they themselves cannot change.")
jobs = typer.Typer(no_args_is_help=True, help="Background jobs: those that failed for good, and sending them again or discarding them.")
cli.add_typer(database, name="database")
cli.add_typer(jobs, name="jobs")
cli.add_typer(tenants, name="tenants")
console = Console()

Slug = Annotated[str, typer.Argument(help="The tenant's slug", show_default=False)]


@contextmanager
def owner() -> Iterator[tuple[Settings, Engine]]:
    """Give the settings and the owner's engine; say in one sentence what is wrong where they cannot be had."""
    try:
        settings = get_settings()
        engine = create_engine(settings.owner_url, hide_parameters=True)
        yield settings, engine
        engine.dispose()
    except (OperationalError, ProgrammingError) as error:
        sys.exit(f"PostgreSQL said: {str(error.orig).strip().splitlines()[0]}")
    except ValueError as error:
        sys.exit(str(error))


def _table(*columns: str) -> Table:
    """Return a table that shows all of every value, on several lines where the terminal, or a pipe, is too narrow. Rich would cut them."""
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


@database.command()
def prepare() -> None:
    """Create the database and the service's role, where they are missing, and set the role's timeouts."""
    with owner() as (settings, _):
        for line in prepare_database(settings.owner_url, settings.service_url) or ["nothing to do"]:
            console.print(line)


@cli.command()
def seed_demo() -> None:
    """Make the demo tenant with an admin, a member and a viewer. Not in production."""
    with owner() as (settings, engine):
        if settings.environment == "production":
            sys.exit("ENVIRONMENT is production: a tenant with a password that everybody knows has no place there.")
        made = seed(engine, settings.password_hash_rounds)
        console.print(f"tenant {DEMO_SLUG}: {'made' if made else 'there already'}; password {DEMO_PASSWORD} for {', '.join(user.email for user in DEMO_USERS)}")


@cli.command()
def doctor(
    processes: Annotated[int, typer.Option(min=0, help="API processes there are, on all machines together")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Workers there are")] = 1,
) -> None:
    """Look whether everything that the service needs is there and as it should be. Exit code 1 where something is not."""
    table = _table("check", "", "what was found, or what to do")
    findings = list(examine(processes, workers))
    for finding in findings:
        table.add_row(finding.check, {True: "ok", False: "NOT OK", None: "?"}[finding.is_ok], Text(finding.said))
    console.print(table)
    sys.exit(any(finding.is_ok is False for finding in findings))


@tenants.command("list")
def list_tenants() -> None:
    """List the tenants, newest first."""
    with owner() as (_, engine), OrmSession(engine) as session:
        users = select(func.count()).where(User.tenant_id == Tenant.id).scalar_subquery()
        projects = select(func.count()).where(Project.tenant_id == Tenant.id).scalar_subquery()
        rows = session.execute(select(Tenant, users, projects).order_by(Tenant.created_at.desc()))
        table = _table("slug", "name", "tier", "active", "users", "projects", "requests/min", "burst", "since")
        for tenant, user_count, project_count in rows:
            table.add_row(
                tenant.slug,
                tenant.name,
                tenant.subscription_tier,
                "yes" if tenant.is_active else "no",
                str(user_count),
                str(project_count),
                str(tenant.rate_limit_per_minute or "by tier"),
                str(tenant.rate_limit_burst or "by tier"),
                f"{tenant.created_at:%Y-%m-%d}",
            )
        console.print(table)


@tenants.command()
def suspend(slug: Slug) -> None:
    """Suspend a tenant: all its requests are refused, on every server, from the next one on."""
    _change(slug, is_active=False)


@tenants.command()
def activate(slug: Slug) -> None:
    """Take a suspension back."""
    _change(slug, is_active=True)


@tenants.command()
def set_tier(slug: Slug, tier: Tier) -> None:
    """Put a tenant on another tier."""
    _change(slug, subscription_tier=tier.value)


@tenants.command()
def set_limits(
    slug: Slug,
    per_minute: Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Requests a minute; left out: as the tier says")] = None,
    burst: Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Requests at once; left out: as the tier says")] = None,
) -> None:
    """Override a tenant's rate limits, or take the override back."""
    _change(slug, rate_limit_per_minute=per_minute, rate_limit_burst=burst)


def _change(slug: str, **values: object) -> None:
    with owner() as (settings, engine):
        with OrmSession(engine) as session, session.begin():
            changed = update(Tenant).where(Tenant.slug == slug).values(**values, updated_at=func.now()).returning(Tenant.id)
            tenant_id = session.execute(changed).scalar_one_or_none()
            if tenant_id is None:
                sys.exit(f"There is no tenant {slug}.")
            enqueue_on(session.connection(), RENEW_STAMP, change_of(None), tenant_id, priority=BEFORE_ALL_ELSE)
        # The servers learn of it by the tenant's stamp; see app/core/stamps.py.
        try:
            with Redis.from_url(settings.redis_url.get_secret_value(), socket_timeout=2, socket_connect_timeout=2) as redis:
                redis.set(stamp_key(tenant_id), new_id().hex, px=STAMP_MILLISECONDS)
        except (RedisError, OSError):
            console.print("Redis could not be told. A worker will do it; till then servers that reach Redis may go on as before, for five minutes at most.")
        console.print(f"{slug}: " + ", ".join(f"{name} = {value}" for name, value in values.items()))


@jobs.command("list")
def list_jobs(
    everything: Annotated[bool, typer.Option("--all", help="Those that wait or are being done, too")] = False,
    limit: Annotated[int, typer.Option(min=1, help="The most to show; how many there are beyond is said")] = 100,
) -> None:
    """List the jobs that failed for good, oldest first."""
    with owner() as (_, engine), engine.connect() as connection:
        found = read_jobs(connection, failed_only=not everything, most=limit)
        more = count_jobs(connection, failed_only=not everything) - len(found)
    table = _table("id", "kind", "tenant", "state", "attempts", "since", "next try", "last error")
    for job in found:
        next_try = f"{job.next_try:%Y-%m-%d %H:%M:%S}" if job.next_try else ""
        table.add_row(str(job.id), job.kind, job.tenant, job.state, str(job.attempts), f"{job.since:%Y-%m-%d %H:%M:%S}", next_try, job.last_error)
    console.print(table)
    if more > 0:
        console.print(f"… and {more} more: --limit {limit + more} shows them all")


Jobs = Annotated[list[int] | None, typer.Argument(help="The jobs' identifiers", show_default=False)]
AllFailed = Annotated[bool, typer.Option("--all", help="Every job that failed for good")]


@jobs.command("retry")
def retry_jobs(ids: Jobs = None, everything: AllFailed = False) -> None:
    """Send jobs that failed for good again, with as many tries as a new one has."""
    _refuse_unnamed(ids, everything=everything)
    with owner() as (_, engine):
        sent, waiting = send_again(engine, ids)
    console.print(f"sent again: {len(sent)}")
    for job_id in waiting:
        console.print(f"{job_id} stays failed: the same job waits already")
    _tell_missing(ids, [*sent, *waiting])


@jobs.command("discard")
def discard_jobs(ids: Jobs = None, everything: AllFailed = False) -> None:
    """Delete jobs that failed for good. What they were to do is never done; a mail is dropped."""
    _refuse_unnamed(ids, everything=everything)
    with owner() as (_, engine):
        discarded = discard(engine, ids)
    console.print(f"discarded: {len(discarded)}")
    _tell_missing(ids, discarded)


def _refuse_unnamed(ids: list[int] | None, *, everything: bool) -> None:
    if everything == bool(ids):
        sys.exit("Name jobs by their identifiers, or say --all.")


def _tell_missing(ids: list[int] | None, found: list[int]) -> None:
    if missing := set(ids or []) - set(found):
        sys.exit(f"No failed job: {', '.join(str(job_id) for job_id in sorted(missing))}.")


if __name__ == "__main__":
    cli()
