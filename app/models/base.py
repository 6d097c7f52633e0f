"""What every table has in common: names of constraints, the tenant key, and keys that stay within a tenant."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import DateTime, ForeignKeyConstraint, MetaData, Text, Uuid, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from uuid_utils.compat import uuid7

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def new_id() -> UUID:
    """Return a new identifier: UUID version 7 (RFC 9562), so that rows made together lie together in an index."""
    return uuid7()


class Base(DeclarativeBase):
    """The root of all models."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {str: Text(), UUID: Uuid(as_uuid=True), datetime: DateTime(timezone=True)}  # noqa: RUF012 (read by SQLAlchemy)


class TenantModel(Base):
    """A table whose every row belongs to one tenant.

    The primary key is `(tenant_id, id)`, and foreign keys between tenant tables carry `tenant_id` (`same_tenant_key`), so that the database itself
    cannot tie one tenant's row to another's. Row-level security is switched on by the migration that makes the table.
    """

    __abstract__ = True

    tenant_id: Mapped[UUID] = mapped_column(sort_order=-20)
    id: Mapped[UUID] = mapped_column(default=new_id, sort_order=-19)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), sort_order=90)


def tenant_key() -> ForeignKeyConstraint:
    """Return the key to the tenant itself; erasing a tenant erases its rows."""
    return ForeignKeyConstraint(["tenant_id"], ["tenants.id"], ondelete="CASCADE")


def same_tenant_key(column: str, table: str, *, ondelete: str | None = None) -> ForeignKeyConstraint:
    """Return a foreign key to a row of the same tenant. `ondelete` may be CASCADE; SET NULL does not exist on a distributed table."""
    return ForeignKeyConstraint(["tenant_id", column], [f"{table}.tenant_id", f"{table}.id"], ondelete=ondelete)
