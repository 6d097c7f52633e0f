"""What the OpenAPI document promises holds, for whatever Schemathesis makes of it: by every role, against a server of its own."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.main import create_app
from app.middleware.tenant import NAMED_ELSEWHERE
from app.models import Role
from tests.api.live_server import LiveServer
from tests.api.world import ENDS_SESSIONS, World, make_world
from tests.factories import Factory

EXAMPLES = 500
CHECKS: list[Callable[..., Any]] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    allow_header_conformance,
]
# Admins get furthest, so they come twice as often.
CALLERS: list[Role | None] = [Role.ADMIN, *Role, None]


def operations_of(app: FastAPI) -> list[Any]:
    """Return what the document describes. All of it, or this raises."""
    return [result.ok() for result in schemathesis.openapi.from_dict(app.openapi()).get_all_operations()]  # type: ignore[union-attr]  # fails where one is invalid


Worlds = dict[Role | None, World]


@pytest.fixture(scope="module")
async def worlds(factory: Factory) -> Worlds:
    """A tenant for each kind of caller, which it may turn upside down."""
    return {caller: await make_world(factory) for caller in set(CALLERS)}


@pytest.fixture(scope="module")
async def worlds_to_leave(factory: Factory) -> Worlds:
    """The same, for calls that end the caller's session."""
    return {caller: await make_world(factory) for caller in set(CALLERS)}


@pytest.fixture(scope="module")
def connection() -> Iterator[requests.Session]:
    """A connection that is kept open."""
    with requests.Session() as session:
        yield session


def headers_of(world: World, caller: Role | None, operation: Any) -> dict[str, str]:
    """Return the headers of a caller's requests."""
    if operation.path in NAMED_ELSEWHERE:
        return {}
    if caller is None:
        return {"X-Tenant-Slug": world.tenant.slug}
    return {Role.ADMIN: world.admin, Role.MEMBER: world.member, Role.VIEWER: world.viewer}[caller].headers


def cases_of(operation: Any) -> st.SearchStrategy[Any]:
    """Return requests that the document allows, and, where there is something to break, one in three that breaks it."""
    right = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    if not (operation.body or operation.query or operation.path_parameters):
        return st.one_of(right)
    wrong = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
    return st.sampled_from((right, right, wrong)).flatmap(lambda strategy: strategy)


@pytest.mark.parametrize("operation", operations_of(create_app()), ids=lambda operation: str(operation.label))
def test_the_document_keeps_its_word(live_server: LiveServer, worlds: Worlds, worlds_to_leave: Worlds, connection: requests.Session, operation: Any) -> None:
    leaves = operation.path.startswith("/api/v1/auth/sessions/") or (operation.method.upper(), operation.path) in ENDS_SESSIONS

    @seed(7)
    @settings(max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=cases_of(operation), caller=st.sampled_from(CALLERS), existing=st.sampled_from((True, True, False)))
    def conform(case: Any, caller: Role | None, existing: bool) -> None:
        world = (worlds_to_leave if leaves else worlds)[caller]
        # What is made up is hardly ever the identifier of something that is there.
        if existing and case.path_parameters:
            known = {
                "project_id": world.project.id,
                "resource_id": world.resource.id,
                "user_id": world.member.user.id,
                "invitation_id": world.invitation.id,
                "session_id": world.member.session_id,
            }
            case.path_parameters = {name: str(known[name]) for name in case.path_parameters}
        response = case.call(base_url=live_server.url, headers=headers_of(world, caller, operation), session=connection)
        case.validate_response(response, checks=CHECKS)

    conform()
