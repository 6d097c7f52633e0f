"""What PostgreSQL's catalog must say of every table, and what it must not hold at all. Each check returns its complaints; none is good."""

from collections import defaultdict
from typing import Any

from psycopg2 import extensions

# The tables whose rows belong to no tenant, each with the reason.
WORLDWIDE = {
    "tenants": "it is read before anybody knows which tenant a request belongs to; its own policies let a tenant change itself alone",
    "spent_challenges": "whoever solves a challenge to register has no tenant yet; a row is a hash of public numbers",
    "view_batches": "a batch of views is about all tenants at once; a row is an identifier that names none of them",
    "alembic_version": "it says which migrations have run, which the service asks before it calls itself ready",
}

# PgQueuer's tables, in their own schema. Jobs hold identifiers and no secret of a tenant's, and are about tenants that only the job itself names.
QUEUE = "jobs"
QUEUE_TABLES = {"pgqueuer", "pgqueuer_log", "pgqueuer_schedules", "pgqueuer_statistics"}

OWN_ROWS = "(tenant_id = (NULLIF(current_setting('app.tenant_id'::text, true), ''::text))::uuid)"
OWN_TENANT = OWN_ROWS.replace("tenant_id =", "id =", 1)
# (name, kind, command, roles, USING, WITH CHECK)
POLICY_OF_TENANT_TABLES = ("tenant_isolation", "PERMISSIVE", "ALL", "{public}", OWN_ROWS, OWN_ROWS)
POLICIES_OF_TENANTS = [
    ("a_tenant_changes_itself", "PERMISSIVE", "UPDATE", "{public}", OWN_TENANT, OWN_TENANT),
    ("a_tenant_makes_itself", "PERMISSIVE", "INSERT", "{public}", None, OWN_TENANT),
    ("tenants_are_found_by_name", "PERMISSIVE", "SELECT", "{public}", "true", None),
]

SERVICE_ROLE = "saas_service"
TABLE_PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN")
COLUMN_PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "REFERENCES")
READ_AND_WRITE = {"SELECT", "INSERT", "UPDATE", "DELETE"}
# What the service may do with a whole table; a tenant table that is not named: all of READ_AND_WRITE.
GRANTS = {
    "tenants": {"SELECT"},
    "spent_challenges": {"SELECT", "INSERT", "DELETE"},
    "view_batches": {"SELECT", "INSERT", "DELETE"},
    "alembic_version": {"SELECT"},
}
# What it may do with single columns beyond that.
COLUMN_GRANTS = {
    "tenants": {
        "INSERT": {"id", "slug", "subdomain", "name"},
        "UPDATE": {"name", "subdomain", "registration_policy", "updated_at"},
    }
}

OUTSIDE = "NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND nspname !~ '^pg_(toast_)?temp_'"


def rows(cursor: extensions.cursor, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Return the rows of a statement."""
    cursor.execute(sql, parameters or None)
    return cursor.fetchall()


def tenant_tables(cursor: extensions.cursor) -> list[str]:
    """Return every table of the schema `public` that is not worldwide, partitions included."""
    found = rows(cursor, "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p', 'f') AND relnamespace = 'public'::regnamespace ORDER BY relname")
    return [name for (name,) in found if name not in WORLDWIDE]


def check_all(cursor: extensions.cursor) -> list[str]:
    """Return the complaints of every check."""
    checks = (check_schemas, check_row_security, check_primary_keys, check_foreign_keys, check_indexes, check_absent, check_grants, check_role)
    return [complaint for check in checks for complaint in check(cursor)]


def check_schemas(cursor: extensions.cursor) -> list[str]:
    """Every table but the queue's lies in `public`, where the other checks look, and the worldwide ones are there."""
    elsewhere = rows(
        cursor,
        "SELECT nspname || '.' || relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace "
        f"WHERE relkind IN ('r', 'p', 'f') AND nspname <> 'public' AND nspname {OUTSIDE} AND NOT (nspname = %s AND relname = ANY (%s))",
        QUEUE,
        list(QUEUE_TABLES),
    )
    missing = [f"the worldwide table {name} is not there" for name in WORLDWIDE if not rows(cursor, "SELECT 1 WHERE to_regclass(%s) IS NOT NULL", name)]
    return [f"{name} lies outside the schema public" for (name,) in elsewhere] + missing


def check_row_security(cursor: extensions.cursor) -> list[str]:
    """Row-level security is on, forced, and has exactly the one policy."""
    complaints = []
    found = rows(cursor, "SELECT relname, relrowsecurity, relforcerowsecurity FROM pg_class WHERE relnamespace = 'public'::regnamespace")
    switches = {name: (enabled, forced) for name, enabled, forced in found}
    policies: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for table, *policy in rows(
        cursor, "SELECT tablename, policyname, permissive, cmd, roles::text, qual, with_check FROM pg_policies WHERE schemaname = 'public' ORDER BY 1, 2"
    ):
        policies[table].append(tuple(policy))
    expected = {table: [POLICY_OF_TENANT_TABLES] for table in tenant_tables(cursor)} | {"tenants": POLICIES_OF_TENANTS}
    for table, expected_policies in expected.items():
        enabled, forced = switches[table]
        if not enabled:
            complaints.append(f"{table} has not enabled row-level security")
        if not forced:
            complaints.append(f"{table} does not force row-level security")
        if policies[table] != expected_policies:
            complaints.append(f"{table} has other policies than it should: {policies[table]}")
    return complaints


def check_primary_keys(cursor: extensions.cursor) -> list[str]:
    """The primary key is (tenant_id, id)."""
    keys = dict(
        rows(
            cursor,
            "SELECT conrelid::regclass::text, (SELECT array_agg(attname::text ORDER BY position) FROM unnest(conkey) WITH ORDINALITY AS k (number, position) "
            "JOIN pg_attribute ON attrelid = conrelid AND attnum = number) FROM pg_constraint WHERE contype = 'p' AND connamespace = 'public'::regnamespace",
        )
    )
    return [f"{table} has the primary key {keys.get(table)}" for table in tenant_tables(cursor) if keys.get(table) != ["tenant_id", "id"]]


def check_foreign_keys(cursor: extensions.cursor) -> list[str]:
    """Each table has a cascading key to `tenants`, and each key to another tenant table carries tenant_id on both sides, at the same place."""
    complaints = []
    found = rows(
        cursor,
        """
        SELECT conname, conrelid::regclass::text, confrelid::regclass::text, confdeltype, confupdtype,
               (SELECT array_agg(ARRAY[own.attname::text, other.attname::text] ORDER BY pair)
                FROM unnest(conkey, confkey) AS pair (own_number, other_number)
                JOIN pg_attribute own ON own.attrelid = conrelid AND own.attnum = own_number
                JOIN pg_attribute other ON other.attrelid = confrelid AND other.attnum = other_number)
        FROM pg_constraint WHERE contype = 'f'
        """,
    )
    anchored = set()
    for name, table, target, on_delete, on_update, pairs in found:
        if on_delete in "nd" or on_update in "nd":
            complaints.append(f"{name} of {table} sets a column when its target goes: a distributed table cannot have that")
        if target == "tenants":
            if pairs == [["tenant_id", "id"]] and on_delete == "c":
                anchored.add(table)
            else:
                complaints.append(f"{name} of {table} leads to tenants without CASCADE, or by {pairs}")
        elif ["tenant_id", "tenant_id"] not in pairs:
            complaints.append(f"{name} of {table} leads to {target} by {pairs}, and so perhaps to another tenant")
    return complaints + [f"{table} has no key to tenants" for table in tenant_tables(cursor) if table not in anchored]


def check_indexes(cursor: extensions.cursor) -> list[str]:
    """Every index, and so every unique constraint, begins with tenant_id. A unique one that does not tells what other tenants have."""
    found = rows(
        cursor,
        """
        SELECT index.relname, tables.relname, indisunique, attname
        FROM pg_index
        JOIN pg_class index ON index.oid = indexrelid JOIN pg_class tables ON tables.oid = indrelid
        LEFT JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0] AND attnum > 0
        WHERE tables.relnamespace = 'public'::regnamespace
        """,
    )
    ours = set(tenant_tables(cursor))
    kinds = {True: "unique index", False: "index"}
    return [
        f"the {kinds[unique]} {name} of {table} does not begin with tenant_id" for name, table, unique, first in found if table in ours and first != "tenant_id"
    ]


ABSENT = {
    "trigger {}": f"SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgrelid <> '{QUEUE}.pgqueuer'::regclass",
    "event trigger {}": "SELECT evtname FROM pg_event_trigger",
    "rule {}": f"SELECT rulename FROM pg_rules WHERE schemaname {OUTSIDE.replace('nspname', 'schemaname')}",
    "view {} without security_invoker": (
        f"SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind = 'v' AND nspname {OUTSIDE} "
        "AND NOT coalesce('security_invoker=true' = ANY (reloptions) OR 'security_invoker=on' = ANY (reloptions), false)"
    ),
    "materialized view {}": "SELECT relname FROM pg_class WHERE relkind = 'm'",
    "SECURITY DEFINER function {}": f"SELECT proname FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace WHERE prosecdef AND nspname {OUTSIDE}",
    "enum type {}": f"SELECT typname FROM pg_type WHERE typtype = 'e' AND oid <> '{QUEUE}.pgqueuer_status'::regtype",
}


def check_absent(cursor: extensions.cursor) -> list[str]:
    """What looks past row-level security, what a distributed table cannot have, and enums, which an index cannot serve behind a policy."""
    return [f"there is the {what.format(name)}" for what, sql in ABSENT.items() for (name,) in rows(cursor, sql)]


def check_grants(cursor: extensions.cursor) -> list[str]:
    """The service's role may do exactly what is expected, whether it was granted to itself or to everybody."""
    tables = [*tenant_tables(cursor), *WORLDWIDE]
    granted: defaultdict[str, set[str]] = defaultdict(set)
    whole = (
        "SELECT relname, p FROM pg_class, unnest(%s) p WHERE relnamespace = 'public'::regnamespace AND relname = ANY (%s) AND has_table_privilege(%s, oid, p)"
    )
    for table, privilege in rows(cursor, whole, list(TABLE_PRIVILEGES), tables, SERVICE_ROLE):
        granted[table].add(privilege)
    columns: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    single = (
        "SELECT relname, p, attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid, unnest(%s) p "
        "WHERE relnamespace = 'public'::regnamespace AND relname = ANY (%s) AND attnum > 0 AND NOT attisdropped "
        "AND has_column_privilege(%s, attrelid, attnum, p) AND NOT has_table_privilege(%s, pg_class.oid, p)"
    )
    for table, privilege, column in rows(cursor, single, list(COLUMN_PRIVILEGES), tables, SERVICE_ROLE, SERVICE_ROLE):
        columns[table, privilege].add(column)
    complaints = []
    for table in tables:
        if granted[table] != (expected := GRANTS.get(table, READ_AND_WRITE)):
            complaints.append(f"on {table} the service's role has {sorted(granted[table])} instead of {sorted(expected)}")
        for privilege in COLUMN_PRIVILEGES:
            had, wanted = columns[table, privilege], COLUMN_GRANTS.get(table, {}).get(privilege, set())
            if had != wanted:
                complaints.append(f"on columns of {table} the service's role has {privilege} of {sorted(had)} instead of {sorted(wanted)}")
    return complaints


def check_role(cursor: extensions.cursor) -> list[str]:
    """The service's role is powerless beyond its grants: no superuser, no BYPASSRLS, no member of anything, owner of nothing."""
    (attributes,) = rows(cursor, "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication FROM pg_roles WHERE rolname = %s", SERVICE_ROLE)
    names = ("a superuser", "exempt from row-level security", "able to make roles", "able to make databases", "able to replicate")
    complaints = [f"the service's role is {name}" for name, has in zip(names, attributes, strict=True) if has]
    membership = "SELECT roleid::regrole::text FROM pg_auth_members WHERE member = %s::regrole"
    complaints += [f"the service's role is a member of {name}" for (name,) in rows(cursor, membership, SERVICE_ROLE)]
    # pg_shdepend knows the owner of every kind of object, in this database (or 0: shared by all).
    owned = "SELECT classid::regclass::text FROM pg_shdepend WHERE refobjid = %s::regrole AND deptype = 'o'"
    complaints += [f"the service's role owns something listed in {kind}" for (kind,) in rows(cursor, owned, SERVICE_ROLE)]
    for what, sql in {
        "make tables in the schema public": "SELECT has_schema_privilege(%s, 'public', 'CREATE')",
        "make schemas": "SELECT has_database_privilege(%s, current_database(), 'CREATE')",
    }.items():
        if rows(cursor, sql, SERVICE_ROLE) == [(True,)]:
            complaints.append(f"the service's role may {what}")
    return complaints
