"""`python -m app.cli doctor`: each fault is found, with what to do, and nothing else is called one."""

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from app.config import Settings
from app.services import doctor
from app.services.doctor import Finding, examine
from tests.conftest import clone_database, worker_number
from tests.conftest import test_settings as settings_of
from tests.faults.support import ROOT, changed, environment_of, process, valkey
from tests.mail.smtp_server import SmtpServer

AWAY = "127.0.0.1:1"
BARE = "doctor_bare"
JOB = "INSERT INTO jobs.pgqueuer (priority, status, entrypoint, execute_after) VALUES (0, %s, 'x', now() - interval '5 minutes')"


@pytest.fixture
def healthy() -> Settings:
    """Settings of a database that nobody else uses."""
    return settings_of(*clone_database(f"doctor_{worker_number()}"), worker_number())


@pytest.fixture
def bare_role(healthy: Settings) -> Iterator[str]:
    """The URL of a role that nobody has prepared."""
    on(healthy, f"CREATE ROLE {BARE} LOGIN PASSWORD 'hunter2'")
    yield make_url(healthy.database_url.get_secret_value()).set(username=BARE, password="hunter2").render_as_string(hide_password=False)
    on(healthy, f"DROP ROLE {BARE}")


def on(settings: Settings, statement: str, *values: str) -> None:
    """Run a statement as the owner."""
    assert settings.database_admin_url
    connection = psycopg2.connect(settings.database_admin_url.get_secret_value())
    with connection, connection.cursor() as cursor:
        cursor.execute(statement, values)
    connection.close()


def examined(monkeypatch: pytest.MonkeyPatch, settings: Settings, processes: int = 1, workers: int = 1) -> dict[str, Finding]:
    monkeypatch.setattr(doctor, "get_settings", lambda: settings)
    return {finding.check: finding for finding in examine(processes, workers)}


def wrong(findings: dict[str, Finding]) -> dict[str, str]:
    return {finding.check: finding.said for finding in findings.values() if finding.is_ok is False}


def unknown(findings: dict[str, Finding]) -> set[str]:
    return {finding.check for finding in findings.values() if finding.is_ok is None}


def test_what_is_as_it_should_be_is_ok(monkeypatch: pytest.MonkeyPatch, healthy: Settings, smtp: SmtpServer) -> None:
    findings = examined(monkeypatch, changed(healthy, smtp_url=smtp.url))
    assert not wrong(findings)
    assert not unknown(findings)
    assert len(findings) == 15


# ─── PostgreSQL ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"database_url": f"postgresql://saas_service:hunter2@{AWAY}/saas"}, "look at DATABASE_URL: connection to server"),
        ({"database_admin_url": f"postgresql://saas_owner:hunter2@{AWAY}/saas"}, "look at DATABASE_ADMIN_URL: connection to server"),
        ({"database_admin_url": None}, "DATABASE_ADMIN_URL is not set"),
    ],
)
def test_a_server_that_does_not_answer_is_said_once_and_the_rest_is_left_open(
    monkeypatch: pytest.MonkeyPatch, healthy: Settings, change: dict[str, Any], said: str
) -> None:
    findings = examined(monkeypatch, changed(healthy, **change))
    ((check, found),) = wrong(findings).items()
    assert check == ("PostgreSQL, as the service" if "database_url" in change else "PostgreSQL, as the owner")
    assert found.startswith(said)
    assert "one database for both" in unknown(findings)
    assert {"Redis", "mail", "clock of Redis"}.isdisjoint(unknown(findings))


def test_an_old_postgresql_is_named(monkeypatch: pytest.MonkeyPatch, healthy: Settings) -> None:
    monkeypatch.setattr(doctor, "OLDEST_POSTGRESQL", 99)
    assert set(wrong(examined(monkeypatch, healthy))) == {"PostgreSQL, as the service", "PostgreSQL, as the owner"}


def test_a_service_that_runs_as_the_owner_is_found(monkeypatch: pytest.MonkeyPatch, healthy: Settings) -> None:
    found = wrong(examined(monkeypatch, changed(healthy, database_url=healthy.database_admin_url)))
    assert found.pop("the service's role").startswith("it has BYPASSRLS")
    assert set(found) == {"the service's timeouts"}


def test_a_role_without_timeouts_is_found(monkeypatch: pytest.MonkeyPatch, healthy: Settings, bare_role: str) -> None:
    found = wrong(examined(monkeypatch, changed(healthy, database_url=bare_role)))
    assert set(found) == {"the service's timeouts"}
    assert "statement_timeout, lock_timeout" in found["the service's timeouts"]
    assert "database prepare" in found["the service's timeouts"]


def test_an_owner_whom_row_level_security_binds_is_found(monkeypatch: pytest.MonkeyPatch, healthy: Settings, bare_role: str) -> None:
    assert wrong(examined(monkeypatch, changed(healthy, database_admin_url=bare_role)))["the owner's role"].startswith("it needs BYPASSRLS")


def test_two_databases_and_missing_migrations_are_found(monkeypatch: pytest.MonkeyPatch, healthy: Settings) -> None:
    assert healthy.database_admin_url
    elsewhere = make_url(healthy.database_admin_url.get_secret_value()).set(database="postgres").render_as_string(hide_password=False)
    found = wrong(examined(monkeypatch, changed(healthy, database_admin_url=elsewhere)))
    assert (
        found["one database for both"]
        == f"DATABASE_URL names the database doctor_{worker_number()}, and DATABASE_ADMIN_URL the database postgres: name the same one"
    )
    assert found["migrations"].startswith("at none, and this version needs ")


def test_a_migration_that_is_missing_is_found(monkeypatch: pytest.MonkeyPatch, healthy: Settings) -> None:
    on(healthy, "UPDATE alembic_version SET version_num = 'older'")
    found = wrong(examined(monkeypatch, healthy))
    assert set(found) == {"migrations"}
    assert found["migrations"].startswith("at older, and")
    assert found["migrations"].endswith("run 'alembic upgrade head'")


def test_pools_that_find_no_room_are_found(monkeypatch: pytest.MonkeyPatch, healthy: Settings) -> None:
    assert healthy.database_admin_url
    with psycopg2.connect(healthy.database_admin_url.get_secret_value()) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW max_connections")
        room = int(cursor.fetchone()[0]) - 10  # type: ignore[index]  # there is a row
    connection.close()
    # A worker: five and one for the clock in its pool, and one on which it listens.
    fit = changed(healthy, database_pool_size=5, database_max_overflow=room - 5 - 2 * 7)
    assert not wrong(examined(monkeypatch, fit, processes=1, workers=2))
    found = wrong(examined(monkeypatch, fit, processes=1, workers=3))
    assert found["connections"].startswith(f"1 API processes and 3 workers take up to {room + 7} connections, and there is room for {room}: ")
    assert "connections" in wrong(examined(monkeypatch, fit, processes=2, workers=2))
    # Behind PgBouncer it is PgBouncer's to say.
    assert not wrong(examined(monkeypatch, changed(fit, database_listen_url=fit.database_url), processes=2))


# ─── Jobs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_failed_jobs_are_found(monkeypatch: pytest.MonkeyPatch, healthy: Settings) -> None:
    on(healthy, JOB, "failed")
    assert wrong(examined(monkeypatch, healthy)) == {"failed jobs": "1: look at 'python -m app.cli jobs list', then 'jobs retry'"}


def test_jobs_that_nobody_does_are_found(monkeypatch: pytest.MonkeyPatch, healthy: Settings) -> None:
    on(healthy, JOB, "queued")
    found = wrong(examined(monkeypatch, healthy))
    assert set(found) == {"oldest job"}
    assert found["oldest job"].startswith("it has been waiting for 30")


# ─── Redis, mail, clocks ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("url", [f"redis://:hunter2@{AWAY}/0", f"redis://:hunter2@{AWAY}/0?socket_timeout=soon", "{server}"])
def test_a_redis_that_does_not_serve_us_is_found(monkeypatch: pytest.MonkeyPatch, healthy: Settings, url: str) -> None:
    right = make_url(healthy.redis_url.get_secret_value())
    used = url.format(server=right.set(password="hunter2").render_as_string(hide_password=False))
    found = wrong(examined(monkeypatch, changed(healthy, redis_url=used)))
    assert set(found) == {"Redis", "clock of Redis"}
    assert found["Redis"].startswith("look at REDIS_URL: ")
    assert "hunter2" not in str(found)


def test_a_replica_is_found(monkeypatch: pytest.MonkeyPatch, healthy: Settings, tmp_path: Path) -> None:
    with valkey(tmp_path) as replica:
        asyncio.run(replica.run("REPLICAOF", "127.0.0.1", 1))
        found = wrong(examined(monkeypatch, changed(healthy, redis_url=replica.url)))
    assert set(found) == {"Redis"}
    assert found["Redis"].startswith("REDIS_URL names a replica")


def test_a_mail_server_that_is_away_is_found(monkeypatch: pytest.MonkeyPatch, healthy: Settings) -> None:
    found = wrong(examined(monkeypatch, changed(healthy, smtp_url=f"smtp://{AWAY}")))
    assert found == {"mail": "the server of SMTP_URL cannot be used: Connection refused"}


def test_a_mail_server_that_speaks_no_tls_is_found_before_it_gets_a_password(monkeypatch: pytest.MonkeyPatch, healthy: Settings, smtp: SmtpServer) -> None:
    found = wrong(examined(monkeypatch, changed(healthy, smtp_url=f"smtp+starttls://mailer:hunter2@127.0.0.1:{smtp.port}")))
    assert found == {"mail": "the server of SMTP_URL cannot be used: SMTPNotSupportedError"}


def test_clocks_that_differ_are_found(monkeypatch: pytest.MonkeyPatch, healthy: Settings) -> None:
    monkeypatch.setattr(doctor, "time", SimpleNamespace(time=lambda: time.time() + 10))
    found = wrong(examined(monkeypatch, healthy))
    assert set(found) == {"clock of PostgreSQL", "clock of Redis"}
    assert all(said.startswith(("-10.0 s", "-9.9 s")) for said in found.values())


# ─── The command ─────────────────────────────────────────────────────────────────────────────────────────────────────


def run(folder: Path, environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    with process(folder, ["-m", "app.cli", "doctor", *arguments], {**environment, "COLUMNS": "200"}) as command:
        return command.wait(), command.output


def test_the_command_shows_a_table_and_ends_with_0_where_all_is_well(healthy: Settings, tmp_path: Path) -> None:
    code, said = run(tmp_path, environment_of(healthy))
    assert code == 0, said
    assert "NOT OK" not in said
    assert "│ migrations" in said


def test_the_command_ends_with_1_where_something_is_not_and_shows_no_secret(healthy: Settings, tmp_path: Path) -> None:
    secret = "hunter2-hunter2-hunter2"
    environment = {
        **environment_of(healthy),
        "SECRET_KEY": secret,
        "DATABASE_URL": f"postgresql://saas_service:{secret}@{make_url(healthy.database_url.get_secret_value()).host}:1/saas",
        "DATABASE_ADMIN_URL": make_url(str(healthy.database_admin_url and healthy.database_admin_url.get_secret_value()))
        .set(password=secret)
        .render_as_string(hide_password=False),
        "REDIS_URL": f"redis://:{secret}@{AWAY}/0",
        "SMTP_URL": f"smtps://mailer:{secret}@{AWAY}",
    }
    code, said = run(tmp_path, environment)
    assert code == 1
    assert said.count("NOT OK") == 5
    assert "hunter2" not in said
    assert "Traceback" not in said


def test_the_command_has_wrong_settings_in_its_table(tmp_path: Path) -> None:
    code, said = run(tmp_path, {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TRUSTED_PROXIES": "foo"})
    assert code == 1
    assert "TRUSTED_PROXIES names addresses and networks" in said
