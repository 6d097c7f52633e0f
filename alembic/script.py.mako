"""${message}

A new tenant table needs, beside its CREATE TABLE: the primary key (tenant_id, id), keys to other tenant tables that carry tenant_id, indexes
that begin with tenant_id, row-level security with its policy, and grants for the service's role. Each constraint has a name and a statement of its own.
"""

import sqlalchemy as sa

from alembic import op
${imports if imports else ""}
revision = "${up_revision}"
down_revision = ${'"%s"' % down_revision if down_revision else None}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    # A migration that cannot get its lock at once gives up, rather than have all traffic queue behind it.
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Take the change back."""
    op.execute("SET LOCAL lock_timeout = '4s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    ${downgrades if downgrades else "pass"}
