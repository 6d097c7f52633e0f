"""Sessions that refresh, one-time tokens, invitations, mail, spent challenges, the job queue, and batches of views as jobs.

The job queue is PgQueuer's (version 1.6), in a schema of its own. Its rows belong to no tenant, so jobs name rows by their identifiers and hold
nothing else; a job about a tenant looks them up behind row-level security.
"""

from typing import Any

import sqlalchemy as sa

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TENANT_TABLES = ("one_time_tokens", "invitations", "mails")
TIME = sa.DateTime(timezone=True)


def column(name: str, kind: sa.types.TypeEngine[Any], default: str | None = None, *, nullable: bool = False) -> sa.Column[Any]:
    """Return a column; `default` is SQL."""
    return sa.Column(name, kind, server_default=None if default is None else sa.text(default), nullable=nullable)


def upgrade() -> None:
    """Apply the change."""
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    op.add_column("users", column("pending_email", sa.Text(), nullable=True))
    op.add_column("users", column("password_version", sa.Integer(), "0"))
    op.add_column("users", column("password_changed_at", TIME, nullable=True))
    op.add_column("sessions", column("refresh_count", sa.Integer(), "0"))
    op.add_column("sessions", column("refreshed_at", TIME, nullable=True))
    op.add_column("sessions", column("earlier_refreshes", sa.ARRAY(TIME), "'{}'"))
    op.add_column("sessions", column("previous_token_hash", sa.LargeBinary(), nullable=True))
    index("sessions", "expires_at")
    create_one_time_tokens()
    create_invitations()
    create_mails()
    for table in TENANT_TABLES:
        isolate(table)
    create_spent_challenges()
    create_queue()
    grant()
    replace_view_count_batches()


def downgrade() -> None:
    """Take the change back."""
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    restore_view_count_batches()
    op.execute(f"REVOKE SELECT ON alembic_version FROM {service_role()}")  # noqa: S608 (no query, and the name is quoted)
    op.execute("DROP SCHEMA jobs CASCADE")
    op.drop_table("spent_challenges")
    for table in TENANT_TABLES:
        op.drop_table(table)
    op.drop_index("ix_sessions_tenant_id_expires_at", "sessions")
    op.drop_column("sessions", "previous_token_hash")
    op.drop_column("sessions", "earlier_refreshes")
    op.drop_column("sessions", "refreshed_at")
    op.drop_column("sessions", "refresh_count")
    op.drop_column("users", "password_changed_at")
    op.drop_column("users", "password_version")
    op.drop_column("users", "pending_email")


def create_one_time_tokens() -> None:
    """Create the tokens that are mailed."""
    create_tenant_table(
        "one_time_tokens",
        column("user_id", sa.Uuid()),
        column("purpose", sa.Text()),
        column("token_hash", sa.LargeBinary()),
        column("email", sa.Text()),
        column("expires_at", TIME),
        column("used_at", TIME, nullable=True),
        column("used_from", sa.Text(), nullable=True),
    )
    same_tenant_key("one_time_tokens", "user_id", "users", ondelete="CASCADE")
    check("one_time_tokens", "purpose", "purpose IN ('verify_email', 'reset_password')")
    index("one_time_tokens", "user_id", "purpose")
    index("one_time_tokens", "expires_at")


def create_invitations() -> None:
    """Create invitations."""
    create_tenant_table(
        "invitations",
        column("email", sa.Text()),
        column("role", sa.Text()),
        column("invited_by", sa.Uuid(), nullable=True),
        column("token_hash", sa.LargeBinary()),
        column("expires_at", TIME),
    )
    same_tenant_key("invitations", "invited_by", "users")
    op.create_unique_constraint("uq_invitations_tenant_id_email", "invitations", ["tenant_id", "email"])
    check("invitations", "role", "role IN ('admin', 'member', 'viewer')")
    index("invitations", "created_at", "id")
    index("invitations", "invited_by")
    index("invitations", "expires_at")


def create_mails() -> None:
    """Create the mail that waits to be sent."""
    create_tenant_table(
        "mails",
        column("template", sa.Text()),
        column("recipient", sa.Text()),
        column("subject_id", sa.Uuid(), nullable=True),
        column("data", sa.JSON()),
        column("admitted_at", TIME, nullable=True),
        column("state", sa.Text(), "'waiting'"),
        column("finished_at", TIME, nullable=True),
        column("unanswered", sa.SmallInteger(), "0"),
    )
    templates = "'verify_email', 'reset_password', 'set_password', 'invitation', 'password_changed', 'address_changed', 'new_sign_in'"
    check("mails", "template", f"template IN ({templates})")
    check("mails", "state", "state IN ('waiting', 'sent', 'dropped', 'refused')")
    check("mails", "finished_at", "(state = 'waiting') = (finished_at IS NULL)")
    index("mails", "state", "finished_at")


def create_spent_challenges() -> None:
    """Create the list of solutions that were used. Whoever registers has no tenant yet, so it has none."""
    op.create_table("spent_challenges", column("digest", sa.LargeBinary()), column("expires_at", TIME))
    op.create_primary_key("pk_spent_challenges", "spent_challenges", ["digest"])
    op.create_index("ix_spent_challenges_expires_at", "spent_challenges", ["expires_at"])


def create_tenant_table(table: str, *columns: sa.Column[Any]) -> None:
    """Create a table whose rows belong to a tenant."""
    op.create_table(table, column("tenant_id", sa.Uuid()), column("id", sa.Uuid()), *columns, column("created_at", TIME, "now()"))
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
    """Force row-level security on a tenant table."""
    own = "tenant_id = NULLIF(current_setting('app.tenant_id', true), '')::uuid"
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant_isolation ON {table} USING ({own}) WITH CHECK ({own})")


def create_queue() -> None:
    """Create PgQueuer's tables, as its own installation makes them for the schema `jobs`."""
    op.execute("CREATE SCHEMA jobs")
    for statement in QUEUE.split(";\n\n"):
        op.execute(statement)
    op.execute(QUEUE_FUNCTION)
    op.execute("CREATE TRIGGER tg_pgqueuer_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON jobs.pgqueuer EXECUTE FUNCTION jobs.fn_pgqueuer_changed()")


def replace_view_count_batches() -> None:
    """Record batches of views where they are turned into jobs, once for all tenants; before, each tenant had records of its own."""
    op.drop_table("view_count_batches")
    op.create_table("view_batches", column("id", sa.Uuid()), column("created_at", TIME, "now()"))
    op.create_primary_key("pk_view_batches", "view_batches", ["id"])
    op.create_index("ix_view_batches_created_at", "view_batches", ["created_at"])
    op.execute(f"GRANT SELECT, INSERT, DELETE ON view_batches TO {service_role()}")


def restore_view_count_batches() -> None:
    """Record batches with each tenant, as the first tables did."""
    op.drop_table("view_batches")
    create_tenant_table("view_count_batches")
    isolate("view_count_batches")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON view_count_batches TO {service_role()}")


def service_role() -> str:
    """Return the name of the service's role, quoted."""
    return op.get_bind().dialect.identifier_preparer.quote(op.get_context().config.attributes["service_role"])  # type: ignore[union-attr]  # never None inside a migration


def grant() -> None:
    """Grant the service what it needs and no more."""
    role = service_role()
    for table in TENANT_TABLES:
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role}")
    op.execute(f"GRANT SELECT, INSERT, DELETE ON spent_challenges TO {role}")
    op.execute(f"GRANT SELECT ON alembic_version TO {role}")
    op.execute(f"GRANT USAGE ON SCHEMA jobs TO {role}")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA jobs TO {role}")
    op.execute(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA jobs TO {role}")


QUEUE = """
CREATE TYPE jobs.pgqueuer_status AS ENUM ('queued', 'picked', 'successful', 'exception', 'canceled', 'deleted', 'failed');

CREATE TABLE jobs.pgqueuer (
    id bigserial NOT NULL PRIMARY KEY,
    priority integer NOT NULL,
    queue_manager_id uuid,
    created timestamp with time zone NOT NULL DEFAULT now(),
    updated timestamp with time zone NOT NULL DEFAULT now(),
    heartbeat timestamp with time zone NOT NULL DEFAULT now(),
    execute_after timestamp with time zone NOT NULL DEFAULT now(),
    status jobs.pgqueuer_status NOT NULL,
    entrypoint text NOT NULL,
    dedupe_key text,
    payload bytea,
    headers jsonb,
    attempts integer NOT NULL DEFAULT 0,
    slot bigint
);

CREATE TABLE jobs.pgqueuer_log (
    id bigint GENERATED BY DEFAULT AS IDENTITY NOT NULL PRIMARY KEY,
    created timestamp with time zone NOT NULL DEFAULT now(),
    job_id bigint NOT NULL,
    status jobs.pgqueuer_status NOT NULL,
    priority integer NOT NULL,
    entrypoint text NOT NULL,
    traceback jsonb,
    aggregated boolean DEFAULT false
);

CREATE TABLE jobs.pgqueuer_schedules (
    id bigserial NOT NULL PRIMARY KEY,
    expression text NOT NULL,
    entrypoint text NOT NULL,
    heartbeat timestamp with time zone NOT NULL DEFAULT now(),
    created timestamp with time zone NOT NULL DEFAULT now(),
    updated timestamp with time zone NOT NULL DEFAULT now(),
    next_run timestamp with time zone NOT NULL DEFAULT now(),
    last_run timestamp with time zone,
    status jobs.pgqueuer_status DEFAULT 'queued'::jobs.pgqueuer_status,
    UNIQUE (expression, entrypoint)
);

CREATE TABLE jobs.pgqueuer_statistics (
    id bigserial NOT NULL PRIMARY KEY,
    created timestamp with time zone NOT NULL DEFAULT date_trunc('sec'::text, now()),
    count bigint NOT NULL,
    priority integer NOT NULL,
    status jobs.pgqueuer_status NOT NULL,
    entrypoint text NOT NULL
);

CREATE INDEX pgqueuer_ep_ea_idx ON jobs.pgqueuer USING btree (entrypoint, execute_after) WHERE (status = 'queued'::jobs.pgqueuer_status);

CREATE INDEX pgqueuer_ep_prio_id_idx ON jobs.pgqueuer USING btree (entrypoint, priority DESC, id) WHERE (status = 'queued'::jobs.pgqueuer_status);

CREATE INDEX pgqueuer_log_created ON jobs.pgqueuer_log USING btree (created);

CREATE INDEX pgqueuer_log_job_id_status ON jobs.pgqueuer_log USING btree (job_id, created DESC);

CREATE INDEX pgqueuer_log_not_aggregated ON jobs.pgqueuer_log USING btree ((1)) WHERE (NOT aggregated);

CREATE INDEX pgqueuer_log_status ON jobs.pgqueuer_log USING btree (status);

CREATE INDEX pgqueuer_picked_heartbeat_idx ON jobs.pgqueuer USING btree (heartbeat) WHERE (status = 'picked'::jobs.pgqueuer_status);

CREATE UNIQUE INDEX pgqueuer_picked_slot_idx ON jobs.pgqueuer USING btree (entrypoint, slot)
    WHERE ((status = 'picked'::jobs.pgqueuer_status) AND (slot IS NOT NULL));

CREATE INDEX pgqueuer_priority_id_id1_idx ON jobs.pgqueuer USING btree (priority, id DESC) INCLUDE (id) WHERE (status = 'queued'::jobs.pgqueuer_status);

CREATE INDEX pgqueuer_queue_manager_id_idx ON jobs.pgqueuer USING btree (queue_manager_id) WHERE (queue_manager_id IS NOT NULL);

CREATE UNIQUE INDEX pgqueuer_statistics_unique_count ON jobs.pgqueuer_statistics
    USING btree (priority, date_trunc('sec'::text, timezone('UTC'::text, created)), status, entrypoint);

CREATE UNIQUE INDEX pgqueuer_unique_dedupe_key ON jobs.pgqueuer USING btree (dedupe_key)
    WHERE ((status = ANY (ARRAY['queued'::jobs.pgqueuer_status, 'picked'::jobs.pgqueuer_status])) AND (dedupe_key IS NOT NULL));

CREATE INDEX pgqueuer_updated_id_id1_idx ON jobs.pgqueuer USING btree (updated, id DESC) INCLUDE (id) WHERE (status = 'picked'::jobs.pgqueuer_status)
"""

QUEUE_FUNCTION = """
CREATE FUNCTION jobs.fn_pgqueuer_changed() RETURNS TRIGGER AS $$
DECLARE
    to_emit BOOLEAN := false;  -- Flag to decide whether to emit a notification
BEGIN
    -- Check operation type and set the emit flag accordingly
    IF TG_OP = 'UPDATE' AND OLD IS DISTINCT FROM NEW THEN
        to_emit := true;
    ELSIF TG_OP = 'DELETE' THEN
        to_emit := true;
    ELSIF TG_OP = 'INSERT' THEN
        to_emit := true;
    ELSIF TG_OP = 'TRUNCATE' THEN
        to_emit := true;
    END IF;

    -- Perform notification if the emit flag is set
    IF to_emit THEN
        PERFORM pg_notify(
            'ch_pgqueuer',
            json_build_object(
                'channel', 'ch_pgqueuer',
                'operation', lower(TG_OP),
                'sent_at', NOW(),
                'table', TG_TABLE_NAME,
                'type', 'table_changed_event'
            )::text
        );
    END IF;

    -- Return appropriate value based on the operation
    IF TG_OP IN ('INSERT', 'UPDATE') THEN
        RETURN NEW;
    ELSIF TG_OP = 'DELETE' THEN
        RETURN OLD;
    ELSE
        RETURN NULL; -- For TRUNCATE and other non-row-specific contexts
    END IF;

END;
$$ LANGUAGE plpgsql
"""
