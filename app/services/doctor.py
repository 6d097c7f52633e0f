"""Looks whether everything that the service needs is there and as it should be, and says what to do where it is not."""

import smtplib
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from alembic.script import ScriptDirectory
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, ProgrammingError

from app.config import BadSettings, Settings, get_settings, with_driver
from app.database import ROLE_PROBLEM
from app.services.container import SPARE_CONNECTIONS, worker_pool
from app.services.failed_jobs import count_jobs
from app.services.roles import ROLE_SETTINGS

MIGRATIONS = Path(__file__).parents[2] / "alembic"
OLDEST_POSTGRESQL = 15
CONNECT_SECONDS, LONGEST_WAIT_SECONDS, LARGEST_CLOCK_DIFFERENCE = 5, 60, 2.0
PREPARE = "run 'python -m app.cli database prepare'"

FREE_OF_POLICIES = text("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")
WHICH_DATABASE = text("SELECT system_identifier, current_database() FROM pg_control_system()")
OLDEST_JOB = text("SELECT extract(epoch FROM now() - min(execute_after)) FROM jobs.pgqueuer WHERE status = 'queued' AND execute_after <= now()")


class NotAsItShouldBe(Exception):
    """What is wrong, and what to do."""


class NotToBeTold(Exception):
    """What has to be there first."""


@dataclass(frozen=True)
class Finding:
    """What was found of one thing. `is_ok` is None where it could not be looked at. No password and no URL is in `said`."""

    check: str
    is_ok: bool | None
    said: str


def examine(processes: int, workers: int) -> Iterator[Finding]:
    """Look at one thing after another. The pools of so many API processes and workers have to find room in PostgreSQL."""
    try:
        settings = get_settings()
    except BadSettings as error:
        yield Finding("settings", False, str(error))
        return
    yield Finding("settings", True, f"ENVIRONMENT is {settings.environment}")
    with ExitStack() as open_ones:
        examination = Examination(settings, processes, workers, open_ones)
        for title, look in examination.checks.items():
            yield _finding(title, look)


def _finding(title: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(title, True, look())
    except NotToBeTold as error:
        return Finding(title, None, str(error))
    except NotAsItShouldBe as error:
        return Finding(title, False, str(error))
    except DBAPIError as error:
        return Finding(title, False, f"PostgreSQL said: {str(error.orig).strip().splitlines()[0]}")
    except RedisError as error:
        return Finding(title, False, f"look at REDIS_URL: {error}")


class Examination:
    """The checks, and the connections that they share."""

    def __init__(self, settings: Settings, processes: int, workers: int, open_ones: ExitStack) -> None:
        self._settings = settings
        self._processes, self._workers = processes, workers
        self._open_ones = open_ones
        self._connections: dict[str, Connection] = {}
        self.checks: dict[str, Callable[[], str]] = {
            "PostgreSQL, as the service": lambda: self._connect("DATABASE_URL", with_driver(settings.database_url.get_secret_value(), "psycopg2")),
            "PostgreSQL, as the owner": self._connect_owner,
            "one database for both": self._same_database,
            "the service's role": self._service_role,
            "the service's timeouts": self._timeouts,
            "the owner's role": self._owner_role,
            "migrations": self._migrations,
            "connections": self._room,
            "failed jobs": self._failed_jobs,
            "oldest job": self._oldest_job,
            "Redis": self._redis_is_primary,
            "mail": self._mail,
            "clock of PostgreSQL": self._clock_of_postgresql,
            "clock of Redis": self._clock_of_redis,
        }

    @cached_property
    def _redis(self) -> Redis:
        try:
            client = Redis.from_url(self._settings.redis_url.get_secret_value(), socket_timeout=CONNECT_SECONDS, socket_connect_timeout=CONNECT_SECONDS)
        except ValueError as error:
            raise NotAsItShouldBe(f"look at REDIS_URL: {error}") from None
        self._open_ones.callback(client.close)
        return client

    # PostgreSQL

    def _connect(self, name: str, url: URL) -> str:
        engine = create_engine(url, isolation_level="AUTOCOMMIT", hide_parameters=True, connect_args={"connect_timeout": CONNECT_SECONDS})
        self._open_ones.callback(engine.dispose)
        try:
            connection = self._open_ones.enter_context(engine.connect())
        except DBAPIError as error:
            raise NotAsItShouldBe(f"look at {name}: {str(error.orig).strip().splitlines()[0]}") from None
        version = str(connection.execute(text("SHOW server_version")).scalar_one())
        if int(version.partition(".")[0]) < OLDEST_POSTGRESQL:
            raise NotAsItShouldBe(f"this is PostgreSQL {version}: take {OLDEST_POSTGRESQL} or newer")
        self._connections[name] = connection
        return f"version {version}, role {url.username}"

    def _connect_owner(self) -> str:
        try:
            url = self._settings.owner_url
        except ValueError as error:
            raise NotAsItShouldBe(str(error)) from None
        return self._connect("DATABASE_ADMIN_URL", url)

    def _connection(self, name: str) -> Connection:
        if name not in self._connections:
            raise NotToBeTold(f"not without {name}")
        return self._connections[name]

    def _ask(self, name: str, question: Any) -> Any:
        return self._connection(name).execute(question).scalar_one_or_none()

    def _same_database(self) -> str:
        ours, theirs = (self._connection(name).execute(WHICH_DATABASE).one() for name in ("DATABASE_URL", "DATABASE_ADMIN_URL"))
        if ours != theirs:
            where = "another server" if ours[0] != theirs[0] else f"the database {theirs[1]}"
            raise NotAsItShouldBe(f"DATABASE_URL names the database {ours[1]}, and DATABASE_ADMIN_URL {where}: name the same one")
        return str(ours[1])

    def _service_role(self) -> str:
        if problem := self._ask("DATABASE_URL", text(ROLE_PROBLEM)):
            raise NotAsItShouldBe(f"it {problem}, so row-level security would not hold: name another in DATABASE_URL, and {PREPARE}")
        return "row-level security binds it"

    def _timeouts(self) -> str:
        found = {name: self._ask("DATABASE_URL", text(f"SHOW {name}")) for name in ROLE_SETTINGS}
        if endless := [name for name, value in found.items() if value == "0"]:
            raise NotAsItShouldBe(f"{', '.join(endless)}: not set on the role, so {PREPARE}")
        return ", ".join(f"{name} {value}" for name, value in found.items())

    def _owner_role(self) -> str:
        if not self._ask("DATABASE_ADMIN_URL", FREE_OF_POLICIES):
            raise NotAsItShouldBe("it needs BYPASSRLS: without it data migrations change nothing, and backups are empty, both without an error")
        return "row-level security does not bind it"

    def _migrations(self) -> str:
        wanted = set(ScriptDirectory(str(MIGRATIONS)).get_heads())
        try:
            done = set(self._connection("DATABASE_ADMIN_URL").execute(text("SELECT version_num FROM alembic_version")).scalars())
        except ProgrammingError:
            done = set()
        if done != wanted:
            raise NotAsItShouldBe(f"at {', '.join(sorted(done)) or 'none'}, and this version needs {', '.join(sorted(wanted))}: run 'alembic upgrade head'")
        return f"at {', '.join(sorted(done))}"

    def _room(self) -> str:
        settings, worker = self._settings, worker_pool(self._settings)
        # Beside its pool, a worker has a connection on which it listens.
        needed = self._processes * (settings.database_pool_size + settings.database_max_overflow) + self._workers * (sum(worker.values()) + 1)
        room = int(self._ask("DATABASE_URL", text("SHOW max_connections"))) - SPARE_CONNECTIONS
        counted = f"{self._processes} API processes and {self._workers} workers take up to {needed} connections, and there is room for {room}"
        if settings.database_listen_url is not None:
            return f"{counted}; DATABASE_LISTEN_URL says that PgBouncer stands in between, so its limits count"
        if needed > room:
            raise NotAsItShouldBe(f"{counted}: lower DATABASE_POOL_SIZE and DATABASE_MAX_OVERFLOW, raise max_connections, or put PgBouncer in between")
        return counted

    # Jobs

    def _failed_jobs(self) -> str:
        if failed := count_jobs(self._connection("DATABASE_ADMIN_URL"), failed_only=True):
            raise NotAsItShouldBe(f"{failed}: look at 'python -m app.cli jobs list', then 'jobs retry'")
        return "none"

    def _oldest_job(self) -> str:
        seconds = float(self._ask("DATABASE_ADMIN_URL", OLDEST_JOB) or 0)
        if seconds > LONGEST_WAIT_SECONDS:
            raise NotAsItShouldBe(f"it has been waiting for {seconds:.0f} s: no worker runs, or too few do")
        return f"has been waiting for {seconds:.0f} s" if seconds else "none waits"

    # What else there is

    def _redis_is_primary(self) -> str:
        facts: dict[str, Any] = self._redis.info()
        if facts["role"] != "master":
            raise NotAsItShouldBe("REDIS_URL names a replica, which takes no writes: name the primary")
        return f"version {facts.get('valkey_version') or facts['redis_version']}, primary"

    def _mail(self) -> str:
        if self._settings.smtp_url is None:
            return "no SMTP_URL: it goes to the terminal and to .local/outbox"
        try:
            _greet(self._settings.smtp_url.get_secret_value())
        except smtplib.SMTPResponseException as error:
            raise NotAsItShouldBe(f"the server of SMTP_URL does not serve us: it said {error.smtp_code}") from None
        except (smtplib.SMTPException, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            raise NotAsItShouldBe(f"the server of SMTP_URL cannot be used: {reason}") from None
        return "the server of SMTP_URL answers"

    def _clock_of_postgresql(self) -> str:
        connection = self._connection("DATABASE_URL")
        return _compare_clocks(lambda: float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()))

    def _clock_of_redis(self) -> str:
        def read() -> float:
            seconds, microseconds = self._redis.time()
            return float(seconds) + float(microseconds) / 1_000_000

        return _compare_clocks(read)


def _compare_clocks(read: Callable[[], float]) -> str:
    """Return how far a clock is from ours, by what it says halfway between asking and being answered."""
    asked = time.time()
    there = read()
    difference = there - (asked + time.time()) / 2
    if abs(difference) > LARGEST_CLOCK_DIFFERENCE:
        raise NotAsItShouldBe(f"{difference:+.1f} s from this machine's: have all set by NTP")
    return f"{difference:+.2f} s from this machine's"


def _greet(url: str) -> None:
    """Connect to an SMTP server and sign in, as the mailer does, and send nothing."""
    parsed = urlsplit(url)
    host, context = parsed.hostname or "", ssl.create_default_context()
    if parsed.scheme == "smtps":
        client: smtplib.SMTP = smtplib.SMTP_SSL(host, parsed.port or 465, timeout=CONNECT_SECONDS, context=context)
    else:
        client = smtplib.SMTP(host, parsed.port or (587 if parsed.scheme == "smtp+starttls" else 25), timeout=CONNECT_SECONDS)
    with client:
        if parsed.scheme == "smtp+starttls":
            client.starttls(context=context)
        if parsed.username is not None:
            client.login(unquote(parsed.username), unquote(parsed.password or ""))
        client.noop()
