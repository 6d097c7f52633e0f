"""Prepares a PostgreSQL server for the service: the database, and the role that the service runs as."""

from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import OperationalError

# Here, not in the connection's start-up parameters: PgBouncer refuses those.
ROLE_SETTINGS = {
    "statement_timeout": "5s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "10s",
    # A statement whose client was killed stops soon, not when it would have been done.
    "client_connection_check_interval": "500ms",
}


def prepare_database(owner: URL, service: URL) -> list[str]:
    """Make what is missing, as the owner's role, which may create roles and databases.

    Returns what was done. Raises `OperationalError` where PostgreSQL refuses, `ValueError` where one of the roles is not fit for its part.
    """
    done = _create_database(owner)
    engine = create_engine(owner, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        _refuse_bound_owner(connection, owner)
        done += _create_service_role(connection, service)
        quote = connection.dialect.identifier_preparer.quote
        role = quote(service.username or "")
        connection.execute(text(f"GRANT CONNECT ON DATABASE {quote(owner.database or '')} TO {role}"))
        connection.execute(text(f"GRANT USAGE ON SCHEMA public TO {role}"))
        connection.execute(text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
        for name, value in ROLE_SETTINGS.items():
            connection.execute(text(f"ALTER ROLE {role} SET {name} = '{value}'"))
    engine.dispose()
    return done


def _create_database(owner: URL) -> list[str]:
    try:
        engine = create_engine(owner)
        with engine.connect():
            return []
    except OperationalError as error:
        if f'database "{owner.database}" does not exist' not in str(error):
            raise
    finally:
        engine.dispose()
    engine = create_engine(owner.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {connection.dialect.identifier_preparer.quote(owner.database or '')} TEMPLATE template0 ENCODING 'UTF8'"))
    engine.dispose()
    return [f"database {owner.database} created"]


def _refuse_bound_owner(connection: Connection, owner: URL) -> None:
    """Raise `ValueError` where row-level security binds the owner: its data migrations would change nothing, and its backups be empty, without an error."""
    free = connection.execute(text("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")).scalar_one()
    if not free:
        raise ValueError(f"the role {owner.username} of DATABASE_ADMIN_URL needs BYPASSRLS: ALTER ROLE {owner.username} BYPASSRLS")


def _create_service_role(connection: Connection, service: URL) -> list[str]:
    name = service.username or ""
    known = connection.execute(text("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = :name"), {"name": name}).scalar_one_or_none()
    if known:
        raise ValueError(f"the role {name} of DATABASE_URL is a superuser or has BYPASSRLS: name a role of its own for the service")
    role = connection.dialect.identifier_preparer.quote(name)
    # CREATE ROLE takes no parameters; the driver quotes the password as it would a value.
    password = connection.connection.cursor().mogrify("%s", (str(service.password or ""),)).decode()
    if known is None:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN PASSWORD {password.replace('%', '%%')}")
        return [f"role {name} created"]
    connection.exec_driver_sql(f"ALTER ROLE {role} LOGIN PASSWORD {password.replace('%', '%%')}")
    return []
