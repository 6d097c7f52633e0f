"""Tenants, users, sessions, projects and resources.

Each constraint has a name and a statement of its own, as a distributed database (Citus) wants it. Row-level security is forced on every tenant
table: even their owner, unless it has BYPASSRLS, sees only the rows of the tenant that the transaction has named.
"""

from typing import Any

import sqlalchemy as sa

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TENANT_TABLES = ("users", "sessions", "projects", "resources", "view_count_batches")
NAME_FORM = "'^[a-z0-9](?:[a-z0-9-]{1,61}[a-z0-9])$'"
TIME = sa.DateTime(timezone=True)


def column(name: str, kind: sa.types.TypeEngine[Any], default: str | None = None, *, nullable: bool = False) -> sa.Column[Any]:
    """Return a column; `default` is SQL."""
    return sa.Column(name, kind, server_default=None if default is None else sa.text(default), nullable=nullable)


def upgrade() -> None:
    """Apply the change."""
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    create_tenants()
    create_users()
    create_sessions()
    create_projects()
    create_resources()
    create_tenant_table("view_count_batches", column("created_at", TIME, "now()"))
    for table in TENANT_TABLES:
        isolate(table)
    grant()


def downgrade() -> None:
    """Take the change back."""
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    for table in ("view_count_batches", "resources", "projects", "sessions", "users", "tenants"):
        op.drop_table(table)


def create_tenants() -> None:
    """Create the one table that belongs to no tenant."""
    op.create_table(
        "tenants",
        column("id", sa.Uuid()),
        column("slug", sa.Text()),
        column("subdomain", sa.Text(), nullable=True),
        column("name", sa.Text()),
        column("is_active", sa.Boolean(), "true"),
        column("subscription_tier", sa.Text(), "'free'"),
        column("rate_limit_per_minute", sa.Integer(), nullable=True),
        column("rate_limit_burst", sa.Integer(), nullable=True),
        column("registration_policy", sa.Text(), "'approval'"),
        column("created_at", TIME, "now()"),
        column("updated_at", TIME, "now()"),
    )
    op.create_primary_key("pk_tenants", "tenants", ["id"])
    op.create_unique_constraint("uq_tenants_slug", "tenants", ["slug"])
    op.create_unique_constraint("uq_tenants_subdomain", "tenants", ["subdomain"])
    check("tenants", "slug_form", f"slug ~ {NAME_FORM}")
    check("tenants", "subdomain_form", f"subdomain ~ {NAME_FORM}")
    check("tenants", "subscription_tier", "subscription_tier IN ('free', 'basic', 'premium', 'enterprise')")
    check("tenants", "registration_policy", "registration_policy IN ('approval', 'open', 'invite_only')")
    check("tenants", "rate_limit_per_minute", "rate_limit_per_minute BETWEEN 1 AND 1000000")
    check("tenants", "rate_limit_burst", "rate_limit_burst BETWEEN 1 AND 1000000")


def create_users() -> None:
    """Create the people of a tenant."""
    create_tenant_table(
        "users",
        column("email", sa.Text()),
        column("full_name", sa.Text()),
        column("role", sa.Text()),
        column("is_active", sa.Boolean(), "true"),
        column("email_verified", sa.Boolean(), "false"),
        column("password_hash", sa.Text(), nullable=True),
        column("last_login_at", TIME, nullable=True),
        column("created_at", TIME, "now()"),
        column("updated_at", TIME, "now()"),
    )
    op.create_unique_constraint("uq_users_tenant_id_email", "users", ["tenant_id", "email"])
    check("users", "role", "role IN ('admin', 'member', 'viewer')")
    index("users", "created_at", "id")
    index("users", "full_name", "id")


def create_sessions() -> None:
    """Create the sessions that access tokens name."""
    create_tenant_table(
        "sessions",
        column("user_id", sa.Uuid()),
        column("refresh_token_hash", sa.LargeBinary()),
        column("ip_address", sa.Text(), nullable=True),
        column("user_agent", sa.Text(), nullable=True),
        column("last_used_at", TIME, "now()"),
        column("expires_at", TIME),
        column("revoked_at", TIME, nullable=True),
        column("created_at", TIME, "now()"),
    )
    same_tenant_key("sessions", "user_id", "users", ondelete="CASCADE")
    op.create_unique_constraint("uq_sessions_tenant_id_refresh_token_hash", "sessions", ["tenant_id", "refresh_token_hash"])
    index("sessions", "user_id", "created_at")


def create_projects() -> None:
    """Create projects."""
    create_tenant_table(
        "projects",
        column("name", sa.Text()),
        column("description", sa.Text(), nullable=True),
        column("status", sa.Text(), "'active'"),
        column("owner_id", sa.Uuid(), nullable=True),
        column("view_count", sa.BigInteger(), "0"),
        column("is_deleted", sa.Boolean(), "false"),
        column("deleted_at", TIME, nullable=True),
        column("version", sa.Integer(), "1"),
        column("created_at", TIME, "now()"),
        column("updated_at", TIME, "now()"),
    )
    same_tenant_key("projects", "owner_id", "users")
    check("projects", "status", "status IN ('active', 'on_hold', 'completed', 'archived')")
    check("projects", "deleted_at", "is_deleted = (deleted_at IS NOT NULL)")
    index("projects", "is_deleted", "created_at", "id")
    index("projects", "is_deleted", "updated_at", "id")
    index("projects", "is_deleted", "name", "id")
    index("projects", "is_deleted", "status", "created_at", "id")
    index("projects", "owner_id")


def create_resources() -> None:
    """Create resources."""
    create_tenant_table(
        "resources",
        column("project_id", sa.Uuid()),
        column("name", sa.Text()),
        column("type", sa.Text()),
        column("data", sa.JSON()),
        column("version", sa.Integer(), "1"),
        column("created_by", sa.Uuid(), nullable=True),
        column("created_at", TIME, "now()"),
        column("updated_at", TIME, "now()"),
    )
    same_tenant_key("resources", "project_id", "projects", ondelete="CASCADE")
    same_tenant_key("resources", "created_by", "users")
    index("resources", "created_at", "id")
    index("resources", "updated_at", "id")
    index("resources", "name", "id")
    index("resources", "project_id", "created_at", "id")
    index("resources", "type", "created_at", "id")
    index("resources", "created_by")


def create_tenant_table(table: str, *columns: sa.Column[Any]) -> None:
    """Create a table whose rows belong to a tenant."""
    op.create_table(table, column("tenant_id", sa.Uuid()), column("id", sa.Uuid()), *columns)
    op.create_primary_key(f"pk_{table}", table, ["tenant_id", "id"])
    op.create_foreign_key(f"fk_{table}_tenant_id", table, "tenants", ["tenant_id"], ["id"], ondelete="CASCADE")


def same_tenant_key(table: str, name: str, target: str, ondelete: str | None = None) -> None:
    """Create a foreign key that cannot leave the tenant."""
    op.create_foreign_key(f"fk_{table}_tenant_id_{name}", table, target, ["tenant_id", name], ["tenant_id", "id"], ondelete=ondelete)


def index(table: str, *columns: str) -> None:
    """Create an index within the tenant."""
    op.create_index(f"ix_{table}_tenant_id_{'_'.join(columns)}", table, ["tenant_id", *columns])


def check(table: str, name: str, condition: str) -> None:
    """Create a check constraint."""
    op.execute(f"ALTER TABLE {table} ADD CONSTRAINT ck_{table}_{name} CHECK ({condition})")


def isolate(table: str) -> None:
    """Force row-level security on a tenant table.

    After a SET LOCAL has ended the setting is an empty text, not NULL: without NULLIF the cast would fail on a pooled connection. No sub-select:
    Citus refuses one in a policy.
    """
    own = "tenant_id = NULLIF(current_setting('app.tenant_id', true), '')::uuid"
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant_isolation ON {table} USING ({own}) WITH CHECK ({own})")


def grant() -> None:
    """Grant the service what it needs and no more: of tenants, any may be read, one's own made and changed, and the operator's columns not at all."""
    bind = op.get_bind()
    role = bind.dialect.identifier_preparer.quote(op.get_context().config.attributes["service_role"])  # type: ignore[union-attr]  # never None inside a migration
    for table in TENANT_TABLES:
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role}")
    own = "id = NULLIF(current_setting('app.tenant_id', true), '')::uuid"
    op.execute("ALTER TABLE tenants ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE tenants FORCE ROW LEVEL SECURITY")
    op.execute("CREATE POLICY tenants_are_found_by_name ON tenants FOR SELECT USING (true)")
    op.execute(f"CREATE POLICY a_tenant_makes_itself ON tenants FOR INSERT WITH CHECK ({own})")
    op.execute(f"CREATE POLICY a_tenant_changes_itself ON tenants FOR UPDATE USING ({own}) WITH CHECK ({own})")
    op.execute(f"GRANT SELECT ON tenants TO {role}")
    op.execute(f"GRANT INSERT (id, slug, subdomain, name) ON tenants TO {role}")
    op.execute(f"GRANT UPDATE (name, subdomain, registration_policy, updated_at) ON tenants TO {role}")
