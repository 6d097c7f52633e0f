"""A real PostgreSQL 18 and a real Valkey for as long as a `with` block, for tests and benchmarks.

    from deploy.local.servers import LocalServers

    with LocalServers(tmp_path, durable=False) as servers:
        servers.superuser_url                    # postgresql://postgres:…@127.0.0.1:…/postgres
        servers.owner_url                        # the role `saas_owner`: BYPASSRLS, CREATEDB, CREATEROLE; database `postgres`
        servers.owner_url_for("saas")            # the same role, another database
        servers.service_url_for("saas")          # the role `saas_service`; `database prepare` makes it, with this password
        servers.redis_url                        # redis://:…@127.0.0.1:…/0

Enter it in the main thread: on Linux the servers end with the thread that started them, however it ends.
"""

import contextlib
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.local.memory import Memory
from deploy.local.postgres import OWNER, SERVICE, SUPERUSER, PostgresServer
from deploy.local.valkey import ValkeyServer

_DATA = ("postgres", "postgres.new", "valkey", "servers.json")


class LocalServers:
    """PostgreSQL and Valkey below one directory, on free ports of 127.0.0.1.

    `durable=True` keeps data, ports and passwords in the directory for the next time. `durable=False` begins with nothing, waits
    for no disk, and removes what it made at the end. Raises a `LocalError` when a server does not start.
    """

    def __init__(self, directory: Path, *, durable: bool) -> None:
        self.directory = directory
        self.durable = durable
        self._memory_file = directory / "servers.json"

    def __enter__(self) -> Self:
        if not self.durable:
            self._forget(*_DATA)
        self._made_directory = not self.directory.exists()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.memory = Memory.load(self._memory_file)
        self.memory.save(self._memory_file)
        self.postgres = PostgresServer(self.directory, self.memory, durable=self.durable)
        self.valkey = ValkeyServer(self.directory, self.memory, durable=self.durable)
        try:
            self.postgres.start()
            self.valkey.start()
        except BaseException:
            self._stop()  # the logs stay: the error names them
            raise
        self.memory.save(self._memory_file)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stop()
        if not self.durable:
            self._forget("log", "run")
            if self._made_directory:
                with contextlib.suppress(OSError):  # it holds something of somebody else
                    self.directory.rmdir()

    def _stop(self) -> None:
        """Stop both, and remove the data where it is not to be kept."""
        self.valkey.stop(hurry=not self.durable)
        self.postgres.stop(hurry=not self.durable)
        if not self.durable:
            self._forget(*_DATA)

    @property
    def superuser_url(self) -> str:
        return self.postgres.url(SUPERUSER, self.memory.superuser_password, "postgres")

    @property
    def owner_url(self) -> str:
        return self.owner_url_for("postgres")

    def owner_url_for(self, database: str) -> str:
        return self.postgres.url(OWNER, self.memory.owner_password, database)

    def service_url_for(self, database: str) -> str:
        return self.postgres.url(SERVICE, self.memory.service_password, database)

    @property
    def redis_url(self) -> str:
        return self.valkey.url

    def _forget(self, *names: str) -> None:
        for name in names:
            path = self.directory / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
