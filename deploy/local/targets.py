"""Which servers the service is to use: those that the environment or `.env` names, or some of our own."""

import socket
from dataclasses import dataclass

from pydantic import SecretStr
from sqlalchemy.engine import make_url

from app.config import BadSettings, Settings, get_settings
from deploy.local.errors import BadConfiguration

_CONNECT_SECONDS = 5.0
_THIS_MACHINE = dict.fromkeys(("localhost", "::1"), "127.0.0.1")


@dataclass(frozen=True)
class Targets:
    """The URLs that were given; None where a server of our own is to be started."""

    database_url: str | None
    database_admin_url: str | None
    redis_url: str | None
    environment: str
    log_format: str
    public_url: str | None

    @classmethod
    def from_settings(cls) -> "Targets":
        """Read the environment and `.env` as the service does. Raises `BadConfiguration`."""
        get_settings.cache_clear()
        try:
            settings = get_settings()
        except BadSettings as error:
            raise BadConfiguration(str(error)) from None

        def given(name: str) -> str | None:
            value = getattr(settings, name)
            return value.get_secret_value() or None if name in settings.model_fields_set and isinstance(value, SecretStr) else None

        # What `.env.example` says as well is no wish.
        public_url = None if settings.public_url == Settings.model_fields["public_url"].default else settings.public_url
        targets = cls(given("database_url"), given("database_admin_url"), given("redis_url"), settings.environment, settings.log_format, public_url)
        targets.check()
        return targets

    def check(self) -> None:
        """Raise `BadConfiguration` where one of a pair is missing, or a server that was named cannot be reached."""
        if self.database_url and not self.database_admin_url:
            raise BadConfiguration(
                "DATABASE_URL is set, and DATABASE_ADMIN_URL is not: set it to the role that owns and migrates the tables, as the service's role must not."
            )
        if self.database_admin_url and not self.database_url:
            raise BadConfiguration("DATABASE_ADMIN_URL is set, and DATABASE_URL is not: set it to the role that the service shall run as, or unset both.")
        if self.database_url and self.database_admin_url:
            _check_same(self.database_url, self.database_admin_url)
        for name, url, port in (
            ("DATABASE_ADMIN_URL", self.database_admin_url, 5432),
            ("DATABASE_URL", self.database_url, 5432),
            ("REDIS_URL", self.redis_url, 6379),
        ):
            if url:
                _check_reachable(name, url, port)


def _check_same(service_url: str, owner_url: str) -> None:
    """Raise `BadConfiguration` where the tables would be made in another database than the one that is used. Ports may differ, as with PgBouncer."""
    service, owner = ((_THIS_MACHINE.get(url.host or "", url.host), url.database) for url in map(make_url, (service_url, owner_url)))
    if service != owner:
        ours, theirs = (f"{database} on {host or 'a socket'}" for host, database in (service, owner))
        raise BadConfiguration(f"DATABASE_URL names the database {ours}, and DATABASE_ADMIN_URL {theirs}: name the same one.")


def _check_reachable(name: str, url: str, default_port: int) -> None:
    parsed = make_url(url)
    if not parsed.host:  # a Unix socket: the commands that use it say what is wrong
        return
    port = parsed.port or default_port
    try:
        socket.create_connection((parsed.host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadConfiguration(f"Nothing answers on {parsed.host}:{port}, which {name} names ({reason}).") from None
