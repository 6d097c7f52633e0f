"""Databases and applications of their own, so that a layer can be taken away without anybody else noticing."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import asyncpg
import psycopg2
import pytest
from fastapi import FastAPI
from psycopg2 import extensions
from sqlalchemy.engine import make_url

from app.main import create_app
from deploy.local.memory import Memory
from deploy.local.postgres import SUPERUSER
from tests.conftest import ROOT, URLS, clone_database, test_settings, worker_number
from tests.factories import Factory
from tests.isolation.sweep import World


@pytest.fixture
def owner_cursor(database_urls: tuple[str, str]) -> Iterator[extensions.cursor]:
    """A cursor of the owner's role on the migrated database. Nothing of what it does remains."""
    connection = psycopg2.connect(database_urls[0])
    with connection.cursor() as cursor:
        yield cursor
    connection.rollback()
    connection.close()


@pytest.fixture(scope="session")
def superuser_url() -> str:
    """The URL of the local server's superuser, which the servers keep in a file."""
    owner = make_url(os.environ[URLS["owner"]])
    for path in (ROOT / ".local" / "test").glob("*/servers.json"):
        memory = Memory.load(path)
        if (memory.postgres_port, memory.owner_password) == (owner.port, owner.password):
            return owner.set(username=SUPERUSER, password=memory.superuser_password, database="postgres").render_as_string(hide_password=False)
    raise LookupError("no running test server has the owner's port and password")


@asynccontextmanager
async def application_of_its_own(name: str) -> AsyncIterator[tuple[FastAPI, Factory]]:
    """Start the application on a database that nobody else uses, and give it with a factory that writes to that database."""
    urls = clone_database(f"{name}_{worker_number()}")
    # The session's application of this worker uses the Redis database of the worker's number; this one takes its number from the other end.
    settings = test_settings(*urls, 15 - worker_number() % 8, log_level="ERROR")
    application = create_app(settings)
    factory = Factory(urls[0], settings)
    lifespan = application.router.lifespan_context(application)
    await lifespan.__aenter__()
    try:
        yield application, factory
    finally:
        # Not told of what failed within, so that it closes everything.
        await lifespan.__aexit__(None, None, None)
        await factory.close()


@asynccontextmanager
async def a_world(name: str) -> AsyncIterator[World]:
    """Start an application of its own with an attacker and a victim in it."""
    async with application_of_its_own(name) as (app, factory):
        owner = await asyncpg.connect(app.state.services.settings.database_admin_url.get_secret_value())
        world = World(app, factory, owner)
        try:
            await world.seed()
            yield world
        finally:
            await world.client.aclose()
            await owner.close()
