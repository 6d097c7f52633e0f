"""Starts one PostgreSQL and one Valkey for the whole run, and gives each worker a database of its own, cloned from a migrated template.

The application connects as the restricted role, as in production: as a superuser, no row-level security would be tested.
"""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import alembic.command
import alembic.config
import psycopg2
import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy.engine import make_url

from app.config import Settings, with_driver
from app.main import create_app
from app.services.container import Services
from app.services.roles import prepare_database
from deploy.local.errors import LocalError, sentence_of
from deploy.local.servers import LocalServers
from tests.clients import client_of, fresh_address
from tests.factories import Factory
from tests.mail.smtp_server import SmtpServer, smtp_server

ROOT = Path(__file__).parents[1]
TEMPLATE = "saas_template"
URLS = {"owner": "SAAS_TEST_OWNER_URL", "service": "SAAS_TEST_SERVICE_URL", "redis": "SAAS_TEST_REDIS_URL"}
RUNNING = pytest.StashKey[LocalServers]()


def pytest_configure(config: pytest.Config) -> None:
    """Start the servers, once, in the process that controls the workers."""
    if hasattr(config, "workerinput"):
        return
    servers = LocalServers(ROOT / ".local" / "test" / str(os.getpid()), durable=False)
    try:
        servers.__enter__()
    except LocalError as error:
        raise pytest.UsageError(str(error)) from None
    except OSError as error:
        raise pytest.UsageError(sentence_of(error, servers.directory)) from None
    config.stash[RUNNING] = servers
    os.environ[URLS["owner"]] = servers.owner_url_for(TEMPLATE)
    os.environ[URLS["service"]] = servers.service_url_for(TEMPLATE)
    os.environ[URLS["redis"]] = servers.redis_url
    migrate(servers.owner_url_for(TEMPLATE), servers.service_url_for(TEMPLATE))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the servers and forget their data."""
    servers = config.stash.get(RUNNING, None)
    if servers is not None:
        servers.__exit__(None, None, None)


def migrate(owner_url: str, service_url: str, revision: str = "head") -> None:
    """Prepare a database and bring it to a revision."""
    owner, service = with_driver(owner_url, "psycopg2"), with_driver(service_url, "psycopg2")
    prepare_database(owner, service)
    alembic.command.upgrade(alembic_config(owner_url), revision)


def alembic_config(owner_url: str) -> alembic.config.Config:
    """Return Alembic's configuration for a database."""
    configuration = alembic.config.Config(ROOT / "alembic.ini")
    configuration.set_main_option("script_location", str(ROOT / "alembic").replace("%", "%%"))
    configuration.attributes["url"] = with_driver(owner_url, "psycopg2")
    configuration.attributes["service_role"] = "saas_service"
    return configuration


def clone_database(name: str) -> tuple[str, str]:
    """Make a database out of the migrated template. Returns the owner's and the service's URL."""
    owner = make_url(os.environ[URLS["owner"]])
    connection = psycopg2.connect(owner.set(database="postgres").render_as_string(hide_password=False))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        cursor.execute(f'CREATE DATABASE "{name}" TEMPLATE "{TEMPLATE}" STRATEGY wal_log')
    connection.close()
    service = make_url(os.environ[URLS["service"]])
    return tuple(url.set(database=name).render_as_string(hide_password=False) for url in (owner, service))  # type: ignore[return-value]  # two go in, two come out


def test_settings(owner_url: str, service_url: str, redis_database: int, **changes: object) -> Settings:
    """Return settings that use the given servers, quick password hashing, and limits that no test meets by chance."""
    values: dict[str, object] = {
        "environment": "test",
        "database_url": service_url,
        "database_admin_url": owner_url,
        "redis_url": os.environ[URLS["redis"]].rsplit("/", 1)[0] + f"/{redis_database}",
        # Generous: on a machine that is busy with other tests, a slow answer is no outage.
        "redis_timeout": 2.0,
        "password_hash_rounds": 4,
        "anonymous_requests_per_minute": 1_000_000,
        "anonymous_burst": 1_000_000,
        "database_pool_size": 5,
        "database_max_overflow": 15,
        "log_level": "WARNING",
    }
    return Settings(_env_file=None, **{**values, **changes})  # type: ignore[arg-type]  # checked by Pydantic


test_settings.__test__ = False  # type: ignore[attr-defined]  # a helper, for all its name


def worker_number() -> int:
    """Return the number of this xdist worker; 0 without xdist."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


@pytest.fixture(scope="session")
def database_urls() -> Iterator[tuple[str, str]]:
    """The owner's and the service's URL of this worker's database."""
    yield clone_database(f"saas_{worker_number()}")


@pytest.fixture(scope="session")
def settings(database_urls: tuple[str, str]) -> Settings:
    """The settings of this worker's application."""
    return test_settings(*database_urls, worker_number())


@pytest.fixture(scope="session")
async def app(settings: Settings) -> AsyncIterator[FastAPI]:
    """The application, started."""
    application = create_app(settings)
    async with application.router.lifespan_context(application):
        yield application


@pytest.fixture(scope="session")
def services(app: FastAPI) -> Services:
    """The application's parts."""
    found: Services = app.state.services
    return found


@pytest.fixture(scope="session")
async def factory(database_urls: tuple[str, str], settings: Settings) -> AsyncIterator[Factory]:
    """Makes tenants, people and things, as the owner's role."""
    made = Factory(database_urls[0], settings)
    yield made
    await made.close()


@pytest.fixture
def address() -> str:
    """The address that the test's client has, and nobody else."""
    return fresh_address()


@pytest.fixture
async def client(app: FastAPI, address: str) -> AsyncIterator[AsyncClient]:
    """An HTTP client of the application."""
    async with client_of(app, address) as made:
        yield made


@pytest.fixture(scope="session")
def shared_smtp() -> Iterator[SmtpServer]:
    """The SMTP server of this worker."""
    with smtp_server() as server:
        yield server


@pytest.fixture
def smtp(shared_smtp: SmtpServer) -> SmtpServer:
    """An SMTP server that has seen no mail yet."""
    shared_smtp.behave()
    return shared_smtp
