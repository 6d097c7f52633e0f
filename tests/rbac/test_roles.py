"""Who may do what: every operation, by every kind of caller, on what is their own tenant's and on what is another's.

The table is complete: an operation of the API that has no row fails `test_every_operation_has_a_row`.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response

from app.models import Role
from tests.api.answers import problem_in
from tests.api.world import ENDS_SESSIONS, HTTP_METHODS, Operation, World, make_world
from tests.factories import Factory, Person


@dataclass(frozen=True)
class Row:
    """The statuses of one operation on an object of the caller's tenant, and on one of another tenant."""

    admin: int
    member: int
    viewer: int
    # On another tenant's object; None for operations that name no object.
    foreign_admin: int | None = None
    foreign_member: int | None = None
    foreign_viewer: int | None = None
    # Nobody needs to be known: whatever is sent along as a token makes no difference.
    public: bool = False

    def own(self, role: Role) -> int:
        """Return the status on an object of the caller's tenant."""
        return {Role.ADMIN: self.admin, Role.MEMBER: self.member, Role.VIEWER: self.viewer}[role]

    def foreign(self, role: Role) -> int | None:
        """Return the status on an object of another tenant."""
        return {Role.ADMIN: self.foreign_admin, Role.MEMBER: self.foreign_member, Role.VIEWER: self.foreign_viewer}[role]


#                                            own tenant's         another's
TABLE: dict[Operation, Row] = {
    ("GET", "/health"): Row(200, 200, 200, public=True),
    ("GET", "/health/live"): Row(200, 200, 200, public=True),
    ("GET", "/health/ready"): Row(200, 200, 200, public=True),
    ("POST", "/api/v1/auth/register"): Row(201, 201, 201, public=True),
    ("POST", "/api/v1/auth/login"): Row(200, 200, 200, public=True),
    ("POST", "/api/v1/auth/refresh"): Row(200, 200, 200, public=True),
    ("POST", "/api/v1/auth/logout"): Row(204, 204, 204),
    ("POST", "/api/v1/auth/logout-all"): Row(204, 204, 204),
    ("GET", "/api/v1/auth/sessions"): Row(200, 200, 200),
    # Of somebody else's session; one's own is in OWNED.
    ("DELETE", "/api/v1/auth/sessions/{session_id}"): Row(404, 404, 404, 404, 404, 404),
    # With tokens that were never mailed; a good one works whoever sends it.
    ("POST", "/api/v1/auth/verify-email"): Row(400, 400, 400, public=True),
    ("POST", "/api/v1/auth/verify-email/resend"): Row(202, 202, 202, public=True),
    ("POST", "/api/v1/auth/password/forgot"): Row(202, 202, 202, public=True),
    ("POST", "/api/v1/auth/password/reset"): Row(400, 400, 400, public=True),
    ("POST", "/api/v1/auth/password/change"): Row(204, 204, 204),
    ("GET", "/api/v1/auth/captcha"): Row(200, 200, 200, public=True),
    ("GET", "/api/v1/auth/me"): Row(200, 200, 200),
    ("GET", "/api/v1/users"): Row(200, 200, 200),
    ("POST", "/api/v1/users"): Row(201, 403, 403),
    ("GET", "/api/v1/users/invitations"): Row(200, 403, 403),
    ("POST", "/api/v1/users/invitations"): Row(201, 403, 403),
    ("DELETE", "/api/v1/users/invitations/{invitation_id}"): Row(204, 403, 403, 404, 403, 403),
    ("GET", "/api/v1/users/{user_id}"): Row(200, 200, 200, 404, 404, 404),
    ("PATCH", "/api/v1/users/{user_id}"): Row(200, 403, 403, 404, 403, 403),
    ("DELETE", "/api/v1/users/{user_id}"): Row(204, 403, 403, 404, 403, 403),
    ("GET", "/api/v1/projects"): Row(200, 200, 200),
    ("POST", "/api/v1/projects"): Row(201, 201, 403),
    ("GET", "/api/v1/projects/{project_id}"): Row(200, 200, 200, 404, 404, 404),
    ("PATCH", "/api/v1/projects/{project_id}"): Row(200, 200, 403, 404, 404, 403),
    # Of a project that is somebody else's; an owner's own is in OWNED.
    ("DELETE", "/api/v1/projects/{project_id}"): Row(204, 403, 403, 404, 404, 403),
    ("POST", "/api/v1/projects/{project_id}/restore"): Row(200, 403, 403, 404, 403, 403),
    ("GET", "/api/v1/resources"): Row(200, 200, 200),
    # The foreign object is the project that the body names.
    ("POST", "/api/v1/resources"): Row(201, 201, 403, 404, 404, 403),
    ("GET", "/api/v1/resources/{resource_id}"): Row(200, 200, 200, 404, 404, 404),
    ("PATCH", "/api/v1/resources/{resource_id}"): Row(200, 200, 403, 404, 404, 403),
    ("DELETE", "/api/v1/resources/{resource_id}"): Row(204, 204, 403, 404, 404, 403),
    ("GET", "/api/v1/tenant"): Row(200, 200, 200),
    ("PATCH", "/api/v1/tenant"): Row(200, 403, 403),
}

# What somebody may do with what is their very own: by operation, the statuses of a member and a viewer.
OWNED: dict[Operation, tuple[int, int]] = {
    ("DELETE", "/api/v1/auth/sessions/{session_id}"): (204, 204),
    ("GET", "/api/v1/users/{user_id}"): (200, 200),
    ("PATCH", "/api/v1/users/{user_id}"): (200, 200),
    ("DELETE", "/api/v1/users/{user_id}"): (403, 403),
    ("PATCH", "/api/v1/projects/{project_id}"): (200, 403),
    ("DELETE", "/api/v1/projects/{project_id}"): (204, 403),
    ("POST", "/api/v1/projects/{project_id}/restore"): (403, 403),
}

GUARDED = [operation for operation, row in TABLE.items() if not row.public]
NAMES_AN_OBJECT = [operation for operation, row in TABLE.items() if row.foreign_admin is not None]
each_role = pytest.mark.parametrize("role", list(Role))


def each(operations: list[Operation]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("operation", operations, ids=" ".join)


@pytest.fixture(scope="module")
async def own(factory: Factory) -> World:
    """The tenant that is asked."""
    return await make_world(factory)


@pytest.fixture(scope="module")
async def other(factory: Factory) -> World:
    """Another tenant."""
    return await make_world(factory)


Worlds = tuple[World, World]


@pytest.fixture(scope="module")
def worlds(own: World, other: World) -> Worlds:
    """Both."""
    return own, other


async def target_path(factory: Factory, world: World, operation: Operation, owner_id: UUID | None = None) -> str:
    """Return the operation's path, with an object of the world's tenant that the test may take away."""
    method, template = operation
    if method == "GET":
        return world.path(template)
    values: dict[str, Any] = {}
    if "{user_id}" in template:
        values["user_id"] = (await factory.user(world.tenant)).id
    if "{project_id}" in template:
        values["project_id"] = (await factory.project(world.tenant, owner_id=owner_id)).id
    if "{resource_id}" in template:
        values["resource_id"] = (await factory.resource(world.project)).id
    if "{invitation_id}" in template:
        values["invitation_id"] = (await factory.invitation(world.tenant))[0].id
    if "{session_id}" in template:
        people = {person.user.id: person.user for person in (world.admin, world.member, world.viewer)}
        user = people[owner_id] if owner_id else await factory.user(world.tenant)
        values["session_id"] = (await factory.sign_in(world.tenant, user)).session_id
    return template.format(**values)


async def call(client: AsyncClient, operation: Operation, path: str, headers: dict[str, str], body: dict[str, Any] | None) -> Response:
    return await client.request(operation[0], path, headers=headers, **({} if body is None else {"json": body}))  # type: ignore[arg-type]  # httpx takes any JSON


def body_for(world: World, operation: Operation) -> dict[str, Any] | None:
    body = world.body(operation)
    if body is not None and operation == ("PATCH", "/api/v1/users/{user_id}"):
        return {"full_name": body["full_name"]}
    return body


def person_of(world: World, role: Role) -> Person:
    return {Role.ADMIN: world.admin, Role.MEMBER: world.member, Role.VIEWER: world.viewer}[role]


def expect(response: Response, status: int, code: str | None = None) -> None:
    assert response.status_code == status, response.text
    if status >= 400:
        document = problem_in(response)
        assert document["code"] == (code or {400: "link_invalid", 403: "forbidden", 404: document["code"]}[status])


def test_every_operation_has_a_row(app: FastAPI) -> None:
    documented = {(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods if method in HTTP_METHODS}
    assert documented == TABLE.keys()


@each_role
@each(list(TABLE))
async def test_on_the_own_tenant(client: AsyncClient, factory: Factory, own: World, operation: Operation, role: Role) -> None:
    person = await factory.person(own.tenant, role) if operation in ENDS_SESSIONS else person_of(own, role)
    path = await target_path(factory, own, operation)
    headers = {} if operation[1].startswith("/api/v1/auth/") and TABLE[operation].public else person.headers
    expect(await call(client, operation, path, headers, body_for(own, operation)), TABLE[operation].own(role))


@each_role
@each(NAMES_AN_OBJECT)
async def test_on_an_object_of_another_tenant(client: AsyncClient, factory: Factory, worlds: Worlds, operation: Operation, role: Role) -> None:
    own, other = worlds
    path = await target_path(factory, other, operation)
    status = TABLE[operation].foreign(role)
    assert status is not None
    expect(await call(client, operation, path, person_of(own, role).headers, body_for(other, operation)), status)


@pytest.mark.parametrize("role", [Role.MEMBER, Role.VIEWER])
@each(list(OWNED))
async def test_on_what_is_the_caller_s_own(client: AsyncClient, factory: Factory, own: World, operation: Operation, role: Role) -> None:
    person = person_of(own, role)
    owned = operation[1].format(user_id=person.user.id, project_id="{project_id}", session_id="{session_id}")
    path = await target_path(factory, own, (operation[0], owned), owner_id=person.user.id) if "{" in owned else owned
    expect(await call(client, operation, path, person.headers, body_for(own, operation)), OWNED[operation][role == Role.VIEWER])


@each(GUARDED)
async def test_by_nobody(client: AsyncClient, own: World, operation: Operation) -> None:
    response = await call(client, operation, own.path(operation[1]), {"X-Tenant-Slug": own.tenant.slug}, body_for(own, operation))
    expect(response, 401, "not_authenticated")
    assert response.headers["www-authenticate"] == "Bearer"


@each_role
@each(GUARDED)
async def test_by_whoever_was_deactivated(client: AsyncClient, factory: Factory, own: World, operation: Operation, role: Role) -> None:
    person = await factory.person(own.tenant, role, is_active=False)
    response = await call(client, operation, own.path(operation[1]), person.headers, body_for(own, operation))
    expect(response, 401, "token_revoked")
    assert response.headers["www-authenticate"].startswith("Bearer")


@each_role
@each(GUARDED)
async def test_by_somebody_of_another_tenant(client: AsyncClient, worlds: Worlds, operation: Operation, role: Role) -> None:
    own, other = worlds
    headers = {**person_of(other, role).headers, "X-Tenant-Slug": own.tenant.slug}
    expect(await call(client, operation, own.path(operation[1]), headers, body_for(own, operation)), 403, "tenant_mismatch")


@each(GUARDED)
async def test_in_a_suspended_tenant(client: AsyncClient, factory: Factory, operation: Operation) -> None:
    person = await factory.person(await factory.tenant(is_active=False))
    identifier = "01987654-3210-7000-8000-000000000000"
    names = ("user_id", "project_id", "resource_id", "invitation_id", "session_id")
    path = operation[1].format(**dict.fromkeys(names, identifier))
    expect(await call(client, operation, path, person.headers, None), 403, "tenant_inactive")


@each([operation for operation, row in TABLE.items() if row.public])
@pytest.mark.parametrize("token", ["garbage", "another tenant's"])
async def test_a_token_makes_no_difference_where_none_is_needed(client: AsyncClient, worlds: Worlds, operation: Operation, token: str) -> None:
    own, other = worlds
    headers = {"Authorization": f"Bearer {other.admin.token if token != 'garbage' else 'garbage'}"}
    expect(await call(client, operation, operation[1], headers, body_for(own, operation)), TABLE[operation].admin)
