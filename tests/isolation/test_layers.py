"""Each layer of the isolation holds alone: the sweep stays without a leak when another layer is taken away, and finds leaks when both are.

Where the service knows who calls and for which tenant (app.core.tenancy, app.core.principals) nothing is changed: that is the layer before these two.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event
from starlette.requests import Request

from app.api import deps
from app.core import principals, tenancy
from app.database import Database, Query
from app.models import Role
from app.services.container import Services
from tests.isolation.conftest import a_world
from tests.isolation.sweep import CASES, TENANT_TABLES, Finding, Sweep, World, told

WHO_CALLS = {principals._FIND, *tenancy._FIND.values()}
AS_ADMIN = (Role.ADMIN,)

# Cases that cannot leak whatever is taken away: they touch no row, or a layer stands that neither of the two is.
WITHOUT_ROWS = {"GET /health", "GET /health/live", "GET /health/ready", "GET /api/v1/auth/captcha", "GET /api/v1/auth/me", "GET /api/v1/tenant"}
HELD_BY_THE_USER = {  # They find users and sessions by the attacker's own identifier, or by a token's hash, and the victim's tenant has none of these.
    *("GET /api/v1/auth/sessions", "DELETE /api/v1/auth/sessions/{session_id}", "POST /api/v1/auth/refresh"),
    *("POST /api/v1/auth/logout", "POST /api/v1/auth/logout-all"),
    *("POST /api/v1/auth/verify-email", "POST /api/v1/auth/password/reset", "POST /api/v1/auth/password/change"),
}
# `created_by` or `invited_by` would be the attacker in the victim's tenant, and that key does not exist.
HELD_BY_KEYS = {"POST /api/v1/resources", "POST /api/v1/users/invitations"}
# Whoever joins is taken only after the tenant's row was looked at, and the victim's says that it takes nobody.
HELD_BY_POLICY = {"POST /api/v1/auth/register"}


async def without_row_security(world: World) -> None:
    """Switch row-level security off, and make sure that it is off."""
    for table in (*TENANT_TABLES, "tenants"):
        await world.owner.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    services: Services = world.app.state.services
    async with services.database.transaction(None) as session:
        connection = await session.connection()
        for table in TENANT_TABLES:
            seen = await connection.exec_driver_sql(f"SELECT count(DISTINCT tenant_id) FROM {table}")
            assert seen.scalar_one() >= 1, f"{table} still shows nothing"


@contextmanager
def filters_pointed_at(database: Database, own: UUID, victim: UUID, patch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """In every statement that the endpoints send, have the attacker's tenant replaced by the victim's. Gives the statements where that was done.

    Not in `SET LOCAL app.tenant_id`, which names the tenant to row-level security: it is no statement of SQLAlchemy's, and has no parameters.
    """
    redirected: list[str] = []
    arguments = Query.arguments

    def replace(value: Any, statement: str) -> Any:
        if isinstance(value, dict):
            return {name: replace(inner, statement) for name, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(replace(inner, statement) for inner in value)
        if str(value) != str(own):
            return value
        redirected.append(statement)
        return victim

    def of_reader(query: Query, parameters: dict[str, Any]) -> list[Any]:
        values = arguments(query, parameters)
        return values if query in WHO_CALLS else [replace(value, query.sql) for value in values]

    def of_session(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        return statement, replace(parameters, statement)

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", of_session, retval=True)
    with patch.context() as patched:
        patched.setattr(Query, "arguments", of_reader)
        yield redirected
    event.remove(engine, "before_cursor_execute", of_session)


async def sweep_with_wrong_filters(world: World, patch: pytest.MonkeyPatch) -> tuple[list[Finding], list[str]]:
    """Run the sweep with the filters pointed at the victim. Returns the findings and the statements that asked for the victim."""
    services: Services = world.app.state.services
    own = world.attackers[Role.ADMIN].tenant.id
    with filters_pointed_at(services.database, own, world.victim.tenant.id, patch) as redirected:
        return await Sweep(world).run(roles=AS_ADMIN), redirected


def leaks(findings: list[Finding]) -> list[Finding]:
    """Return the findings that are reads or writes across tenants. Without a layer, an answer may well go wrong otherwise."""
    return [finding for finding in findings if finding.kind in ("read", "write")]


async def test_the_filters_hold_without_row_level_security() -> None:
    async with a_world("sweep_without_rls") as world:
        await without_row_security(world)
        findings = await Sweep(world).run(roles=AS_ADMIN)
        assert not findings, told(findings)


async def test_row_level_security_holds_when_every_filter_names_the_wrong_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_world("sweep_wrong_filters") as world:
        findings, redirected = await sweep_with_wrong_filters(world, monkeypatch)
        assert not leaks(findings), told(leaks(findings))
        # Both kinds of statement did ask for the victim. No UPDATE or DELETE is reached: the SELECT ... FOR UPDATE before it finds nothing.
        assert {statement.split()[0] for statement in redirected} >= {"SELECT", "INSERT"}


async def test_without_both_the_sweep_finds_leaks_in_every_operation_that_touches_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_world("sweep_without_both") as world:
        await without_row_security(world)
        findings, _ = await sweep_with_wrong_filters(world, monkeypatch)
        leaking: defaultdict[str, set[str]] = defaultdict(set)
        for finding in leaks(findings):
            leaking[finding.asked.operation].add(finding.kind)
        assert set(leaking) == {case.operation for case in CASES} - WITHOUT_ROWS - HELD_BY_THE_USER - HELD_BY_KEYS - HELD_BY_POLICY
        for operation, kinds in leaking.items():
            expected = "read" if operation.startswith("GET") else "write"
            assert expected in kinds, f"{operation} leaks {kinds} only"


async def test_row_level_security_holds_when_a_token_is_good_for_every_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    """The transaction's tenant is the one of the caller's token, and not what the request's headers say."""

    async def authenticate(request: Request) -> deps.Caller:
        state = request.scope["state"]
        if state.get("claims") is None or state.get("tenant") is None:
            raise state["token_refusal"]
        services: Services = request.app.state.services
        principal = await services.principals.find(state["claims"], state["rate"].stamp)
        return deps.Caller(services, state["tenant"], principal, state["claims"].session_id)

    monkeypatch.setattr(deps, "authenticate", authenticate)
    async with a_world("sweep_any_token") as world:
        # The row in `tenants` is open to all who know the name, so that the check is the only layer before it.
        findings = await Sweep(world, tenant_is_secret=False).run(roles=AS_ADMIN)
        accepted = [finding for finding in findings if "not refused as tenant_mismatch" in finding.detail]
        assert accepted, "the check still stands"
        assert not leaks(findings), told(leaks(findings))
