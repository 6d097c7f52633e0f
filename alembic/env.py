"""Runs migrations as the owner's role, each in a transaction of its own."""

from typing import Any

from alembic.util import CommandError
from sqlalchemy import create_engine, pool

from alembic import context
from app.config import get_settings
from app.models import Base

# Not the model's concern, and so not a difference: row-level security and privileges are checked by tests/isolation.
OPTIONS: dict[str, Any] = {"target_metadata": Base.metadata, "transaction_per_migration": True, "compare_type": True, "compare_server_default": True}


def run_offline() -> None:
    """Print the SQL instead of running it."""
    context.configure(url="postgresql://", literal_binds=True, **OPTIONS)
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    """Run the migrations on the database of DATABASE_ADMIN_URL, or on the URL that the caller has put into the configuration."""
    engine = create_engine(context.config.attributes["url"], poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, **OPTIONS)
        with context.begin_transaction():
            context.run_migrations()


try:
    # Migrations grant what the service may do, so they need to know its role.
    context.config.attributes.setdefault("service_role", get_settings().service_url.username)
    if not (context.is_offline_mode() or context.config.attributes.get("url")):
        context.config.attributes["url"] = get_settings().owner_url
except ValueError as error:
    raise CommandError(str(error)) from None
if context.is_offline_mode():
    run_offline()
else:
    run_online()
