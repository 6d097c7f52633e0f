"""A `%` in a folder's name or in a password is a sign like any other. Configuration files, Alembic's among them, give it a meaning of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy.engine import URL, make_url

from tests.conftest import ROOT, URLS
from tests.conftest import test_settings as settings_of
from tests.faults.support import environment_of

PASSWORD = "50%off%%(here)s%d"
OWNER, SERVICE, DATABASE = "percent_owner", "percent_service", "percent"


@pytest.fixture
def urls() -> Iterator[tuple[str, str]]:
    """The URLs of an owner and a service with such passwords, and of a database that is not there yet."""
    server = make_url(os.environ[URLS["owner"]]).set(database="postgres")
    owner, service = (server.set(username=name, password=PASSWORD, database=DATABASE).render_as_string(hide_password=False) for name in (OWNER, SERVICE))
    run_on(server, f"CREATE ROLE {OWNER} LOGIN BYPASSRLS CREATEDB CREATEROLE PASSWORD '{PASSWORD}'")
    yield owner, service
    run_on(make_url(owner).set(database="postgres"), f"DROP DATABASE IF EXISTS {DATABASE}", f"DROP ROLE IF EXISTS {SERVICE}")
    run_on(server, f"DROP ROLE {OWNER}")


def run_on(url: URL, *statements: str) -> None:
    connection = psycopg2.connect(url.render_as_string(hide_password=False))
    connection.autocommit = True
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    connection.close()


def test_a_checkout_and_passwords_with_percent_signs_are_prepared_and_migrated(urls: tuple[str, str], tmp_path: Path) -> None:
    checkout = tmp_path / "100% (%here)s"
    checkout.mkdir()
    for name in ("app", "alembic", "alembic.ini"):
        (checkout / name).symlink_to(ROOT / name)
    environment = {**environment_of(settings_of(*urls, 0)), "PYTHONPATH": ""}
    for command in (["app.cli", "database", "prepare"], ["alembic", "upgrade", "head"], ["alembic", "check"], ["app.cli", "seed-demo"]):
        done = subprocess.run([sys.executable, "-m", *command], cwd=checkout, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    with psycopg2.connect(urls[1]) as service, service.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM tenants")
        assert cursor.fetchone() == (1,)
    service.close()
