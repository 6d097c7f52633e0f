"""The migrated database itself: no table without its tenant's key and row-level security, and nothing that looks past them."""

import pytest
from psycopg2 import extensions

from app.models import Base, TenantModel
from tests.isolation.catalog import OWN_ROWS, WORLDWIDE, check_all, tenant_tables

A_GOOD_TABLE = f"""
CREATE TABLE notes (tenant_id uuid NOT NULL, id uuid NOT NULL, user_id uuid, text text);
ALTER TABLE notes ADD CONSTRAINT pk_notes PRIMARY KEY (tenant_id, id);
ALTER TABLE notes ADD CONSTRAINT fk_notes_tenant_id FOREIGN KEY (tenant_id) REFERENCES tenants (id) ON DELETE CASCADE;
ALTER TABLE notes ADD CONSTRAINT fk_notes_user FOREIGN KEY (tenant_id, user_id) REFERENCES users (tenant_id, id);
CREATE INDEX ix_notes ON notes (tenant_id, text);
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
ALTER TABLE notes FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON notes USING ({OWN_ROWS}) WITH CHECK ({OWN_ROWS});
GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO saas_service;
"""
A_FUNCTION = "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"

MISTAKES = {
    "ALTER TABLE notes DISABLE ROW LEVEL SECURITY": "notes has not enabled row-level security",
    "ALTER TABLE notes NO FORCE ROW LEVEL SECURITY": "notes does not force row-level security",
    "DROP POLICY tenant_isolation ON notes": "notes has other policies",
    "CREATE POLICY another ON notes USING (true)": "notes has other policies",
    "ALTER POLICY tenant_isolation ON notes USING (true)": "notes has other policies",
    "ALTER POLICY tenant_isolation ON notes WITH CHECK (true)": "notes has other policies",
    "ALTER POLICY tenant_isolation ON notes TO saas_service": "notes has other policies",
    f"DROP POLICY tenant_isolation ON notes; CREATE POLICY tenant_isolation ON notes FOR SELECT USING ({OWN_ROWS})": "notes has other policies",
    f"DROP POLICY tenant_isolation ON notes; CREATE POLICY tenant_isolation ON notes USING ({OWN_ROWS})": "notes has other policies",
    "ALTER POLICY tenant_isolation ON notes USING (tenant_id = current_setting('app.tenant_id')::uuid)": "notes has other policies",
    "ALTER TABLE tenants NO FORCE ROW LEVEL SECURITY": "tenants does not force row-level security",
    "CREATE POLICY another ON tenants FOR UPDATE USING (true)": "tenants has other policies",
    "ALTER TABLE notes DROP CONSTRAINT pk_notes": "notes has the primary key None",
    "ALTER TABLE notes DROP CONSTRAINT pk_notes; ALTER TABLE notes ADD PRIMARY KEY (id)": "notes has the primary key ['id']",
    "ALTER TABLE notes DROP CONSTRAINT pk_notes; ALTER TABLE notes ADD PRIMARY KEY (id, tenant_id)": "notes has the primary key ['id', 'tenant_id']",
    "ALTER TABLE notes DROP CONSTRAINT fk_notes_tenant_id": "notes has no key to tenants",
    "ALTER TABLE notes ADD CONSTRAINT lazy FOREIGN KEY (tenant_id) REFERENCES tenants (id)": "lazy of notes leads to tenants without CASCADE",
    "ALTER TABLE notes ADD CONSTRAINT crossed FOREIGN KEY (user_id, tenant_id) REFERENCES users (tenant_id, id)": "crossed of notes leads to users",
    "CREATE UNIQUE INDEX u ON users (id); ALTER TABLE notes ADD CONSTRAINT plain FOREIGN KEY (user_id) REFERENCES users (id)": "plain of notes leads to users",
    "ALTER TABLE notes ADD CONSTRAINT n FOREIGN KEY (tenant_id, user_id) REFERENCES users ON DELETE SET NULL (user_id)": "n of notes sets a column",
    "CREATE INDEX late ON notes (text, tenant_id)": "the index late of notes does not begin with tenant_id",
    "CREATE INDEX computed ON notes (lower(text))": "the index computed of notes does not begin with tenant_id",
    "CREATE INDEX disguised ON notes ((tenant_id::text), text)": "the index disguised of notes does not begin with tenant_id",
    "ALTER TABLE notes ADD CONSTRAINT oracle UNIQUE (text)": "the unique index oracle of notes does not begin with tenant_id",
    "CREATE TABLE loose (id uuid PRIMARY KEY)": "loose has the primary key ['id']",
    "CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.loose (id uuid)": "elsewhere.loose lies outside the schema public",
    "ALTER TABLE alembic_version RENAME TO versions": "the worldwide table alembic_version is not there",
    f"{A_FUNCTION}; CREATE TRIGGER watch AFTER INSERT ON notes FOR EACH ROW EXECUTE FUNCTION look()": "there is the trigger watch",
    "CREATE RULE detour AS ON DELETE TO notes DO INSTEAD NOTHING": "there is the rule detour",
    "CREATE VIEW everybody AS SELECT * FROM users": "there is the view everybody without security_invoker",
    "CREATE MATERIALIZED VIEW everybody AS SELECT * FROM users": "there is the materialized view everybody",
    "CREATE FUNCTION peek() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM users'": "there is the SECURITY DEFINER function peek",
    "CREATE TYPE mood AS ENUM ('good')": "there is the enum type mood",
    "GRANT TRUNCATE ON notes TO saas_service": "on notes the service's role has ['DELETE', 'INSERT', 'SELECT', 'TRUNCATE', 'UPDATE'] instead",
    "GRANT TRIGGER ON notes TO PUBLIC": "on notes the service's role has",
    "GRANT REFERENCES (id) ON notes TO saas_service": "on columns of notes the service's role has REFERENCES of ['id']",
    "REVOKE DELETE ON notes FROM saas_service": "on notes the service's role has ['INSERT', 'SELECT', 'UPDATE'] instead",
    "GRANT DELETE ON tenants TO saas_service": "on tenants the service's role has ['DELETE', 'SELECT'] instead",
    "GRANT UPDATE (subscription_tier) ON tenants TO saas_service": "on columns of tenants the service's role has UPDATE of",
    "REVOKE UPDATE (name) ON tenants FROM saas_service": "on columns of tenants the service's role has UPDATE of",
    "GRANT UPDATE ON alembic_version TO PUBLIC": "on alembic_version the service's role has ['SELECT', 'UPDATE'] instead",
    "GRANT CREATE ON SCHEMA public TO saas_service": "the service's role may make tables in the schema public",
    "CREATE ROLE mighty; GRANT mighty TO saas_service": "the service's role is a member of mighty",
    "ALTER ROLE saas_service CREATEDB": "the service's role is able to make databases",
    "ALTER ROLE saas_service BYPASSRLS": "the service's role is exempt from row-level security",
}


def test_the_migrated_database_is_as_it_must_be(owner_cursor: extensions.cursor) -> None:
    assert check_all(owner_cursor) == []


def test_the_catalog_and_the_models_know_the_same_tables(owner_cursor: extensions.cursor) -> None:
    assert set(tenant_tables(owner_cursor)) == {model.__tablename__ for model in TenantModel.__subclasses__()}
    assert set(Base.metadata.tables) - set(tenant_tables(owner_cursor)) == set(WORLDWIDE) - {"alembic_version"}


def test_a_table_made_well_is_not_complained_of(owner_cursor: extensions.cursor) -> None:
    owner_cursor.execute(A_GOOD_TABLE)
    assert check_all(owner_cursor) == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_migration_is_noticed(owner_cursor: extensions.cursor, mistake: str) -> None:
    owner_cursor.execute(A_GOOD_TABLE)
    owner_cursor.execute(mistake)
    complaints = check_all(owner_cursor)
    assert any(MISTAKES[mistake] in complaint for complaint in complaints), complaints


def test_a_view_that_asks_as_its_caller_is_allowed(owner_cursor: extensions.cursor) -> None:
    owner_cursor.execute("CREATE VIEW people WITH (security_invoker = true) AS SELECT * FROM users")
    assert check_all(owner_cursor) == []
