"""The people of a tenant."""

from typing import Any
from uuid import uuid4

import pytest
from httpx import AsyncClient

from app.models import Role
from tests.api.answers import accepted, refused
from tests.factories import PASSWORD, Factory

USERS = "/api/v1/users"
LOGIN = "/api/v1/auth/login"
FIELDS = {"id", "email", "full_name", "role", "is_active", "email_verified", "created_at", "updated_at", "last_login_at"}


def new_user(**changes: Any) -> dict[str, Any]:
    return {"email": f"{uuid4().hex[:12]}@example.com", "full_name": "New Person", **changes}


async def test_a_user_is_shown_without_anything_secret(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    shown = accepted(await client.get(f"{USERS}/{person.user.id}", headers=person.headers))
    listed = accepted(await client.get(USERS, headers=person.headers))["items"]
    assert shown.keys() == FIELDS
    assert listed == [shown]


async def test_a_created_user_is_found_at_its_location(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    created = await client.post(USERS, headers=admin.headers, json=new_user(role="member", password=PASSWORD))
    assert accepted(created, 201).keys() == FIELDS
    assert created.headers["location"] == f"{USERS}/{created.json()['id']}"
    assert accepted(await client.get(created.headers["location"], headers=admin.headers)) == created.json()


async def test_a_user_is_created_as_a_viewer_unless_said_otherwise(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    created = accepted(await client.post(USERS, headers=admin.headers, json=new_user()), 201)
    assert (created["role"], created["is_active"], created["email_verified"], created["last_login_at"]) == ("viewer", True, False, None)


async def test_a_created_user_can_sign_in(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    body = new_user(password=PASSWORD)
    accepted(await client.post(USERS, headers=admin.headers, json=body), 201)
    accepted(await client.post(LOGIN, json={"email": body["email"], "password": PASSWORD, "tenant_slug": admin.tenant.slug}))


async def test_an_address_is_kept_in_lower_case_and_without_spaces(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    created = accepted(await client.post(USERS, headers=admin.headers, json=new_user(email="  Ada.Admin@EXAMPLE.com ")), 201)
    assert created["email"] == "ada.admin@example.com"


@pytest.mark.parametrize("email", ["", "ada", "ada@", "@example.com", "ada@example", "ada@@example.com", "ada@exa mple.com", "a@" + "b" * 260 + ".com"])
async def test_what_is_no_address_is_refused(client: AsyncClient, factory: Factory, email: str) -> None:
    admin = await factory.person()
    refused(await client.post(USERS, headers=admin.headers, json=new_user(email=email)), 422, "validation_error")


async def test_an_address_is_in_use_once_in_a_tenant(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    other = await factory.user(admin.tenant)
    refused(await client.post(USERS, headers=admin.headers, json=new_user(email=other.email.upper())), 409, "email_taken")
    refused(await client.patch(f"{USERS}/{admin.user.id}", headers=admin.headers, json={"email": other.email}), 409, "email_taken")


async def test_an_address_of_another_tenant_is_free(client: AsyncClient, factory: Factory) -> None:
    admin, other = await factory.person(), await factory.person()
    accepted(await client.post(USERS, headers=admin.headers, json=new_user(email=other.user.email)), 201)


async def test_an_admin_changes_anybody(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    user = await factory.user(admin.tenant, Role.VIEWER)
    change = {"full_name": "Other Name", "role": "member", "is_active": False}
    changed = accepted(await client.patch(f"{USERS}/{user.id}", headers=admin.headers, json=change))
    assert {name: changed[name] for name in change} == change
    assert changed == accepted(await client.get(f"{USERS}/{user.id}", headers=admin.headers))


@pytest.mark.parametrize("role", [Role.MEMBER, Role.VIEWER])
async def test_everybody_changes_their_own_name(client: AsyncClient, factory: Factory, role: Role) -> None:
    person = await factory.person(role=role)
    assert accepted(await client.patch(f"{USERS}/{person.user.id}", headers=person.headers, json={"full_name": "Other Name"}))["full_name"] == "Other Name"


@pytest.mark.parametrize("role", [Role.MEMBER, Role.VIEWER])
@pytest.mark.parametrize("change", [{"role": "admin"}, {"is_active": False}, {"full_name": "Me", "role": "admin"}])
async def test_nobody_but_an_admin_changes_role_or_activity(client: AsyncClient, factory: Factory, role: Role, change: dict[str, Any]) -> None:
    person = await factory.person(role=role)
    before = accepted(await client.get(f"{USERS}/{person.user.id}", headers=person.headers))
    refused(await client.patch(f"{USERS}/{person.user.id}", headers=person.headers, json=change), 403, "forbidden")
    assert accepted(await client.get(f"{USERS}/{person.user.id}", headers=person.headers)) == before


@pytest.mark.parametrize("change", [{}, {"full_name": "The Same"}, {"full_name": " The Same "}, {"role": "admin", "is_active": True}])
async def test_a_change_that_changes_nothing_leaves_even_the_time(client: AsyncClient, factory: Factory, change: dict[str, Any]) -> None:
    admin = await factory.person(full_name="The Same", email_verified=True)
    before = accepted(await client.get(f"{USERS}/{admin.user.id}", headers=admin.headers))
    assert accepted(await client.patch(f"{USERS}/{admin.user.id}", headers=admin.headers, json=change)) == before
    same_address = {"email": admin.user.email.upper()}
    assert accepted(await client.patch(f"{USERS}/{admin.user.id}", headers=admin.headers, json=same_address)) == before


async def test_a_change_moves_the_time_of_the_last_change(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    before = accepted(await client.get(f"{USERS}/{admin.user.id}", headers=admin.headers))
    after = accepted(await client.patch(f"{USERS}/{admin.user.id}", headers=admin.headers, json={"full_name": "Other Name"}))
    assert after["updated_at"] > before["updated_at"]
    assert after["created_at"] == before["created_at"]


@pytest.mark.parametrize("field", ["full_name", "email", "role", "is_active"])
async def test_no_field_of_a_user_can_be_emptied(client: AsyncClient, factory: Factory, field: str) -> None:
    admin = await factory.person()
    refused(await client.patch(f"{USERS}/{admin.user.id}", headers=admin.headers, json={field: None}), 422, "validation_error")


@pytest.mark.parametrize("field", ["id", "tenant_id", "password", "password_hash", "email_verified", "created_at", "last_login_at"])
async def test_what_is_not_for_clients_to_change_is_refused(client: AsyncClient, factory: Factory, field: str) -> None:
    admin = await factory.person()
    before = accepted(await client.get(f"{USERS}/{admin.user.id}", headers=admin.headers))
    refused(await client.patch(f"{USERS}/{admin.user.id}", headers=admin.headers, json={field: before.get(field, "x")}), 422, "validation_error")


@pytest.mark.parametrize("value", ["yes", "true", "off", 1, 0, 1.0])
async def test_what_is_no_boolean_is_refused_where_one_is_due(client: AsyncClient, factory: Factory, value: Any) -> None:
    admin = await factory.person()
    user = await factory.user(admin.tenant)
    refused(await client.patch(f"{USERS}/{user.id}", headers=admin.headers, json={"is_active": value}), 422, "validation_error")


async def test_a_changed_role_counts_from_the_next_request(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    person = await factory.person(admin.tenant, Role.VIEWER)
    for role, status in (("viewer", 403), ("member", 201), ("viewer", 403), ("admin", 201)):
        accepted(await client.patch(f"{USERS}/{person.user.id}", headers=admin.headers, json={"role": role}))
        assert (await client.post("/api/v1/projects", headers=person.headers, json={"name": "Mine"})).status_code == status


async def test_a_deactivated_user_is_out_from_the_next_request_and_back_only_by_signing_in(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    person = await factory.person(admin.tenant, Role.MEMBER)
    credentials = {"email": person.user.email, "password": PASSWORD, "tenant_slug": admin.tenant.slug}
    for is_active, status, signed_in in ((True, 200, 200), (False, 401, 403), (True, 401, 200)):
        accepted(await client.patch(f"{USERS}/{person.user.id}", headers=admin.headers, json={"is_active": is_active}))
        assert (await client.get("/api/v1/auth/me", headers=person.headers)).status_code == status
        assert (await client.post(LOGIN, json=credentials)).status_code == signed_in


async def test_a_refresh_token_from_before_a_deactivation_stays_dead(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    person = await factory.person(admin.tenant, Role.MEMBER)
    for is_active in (False, True):
        accepted(await client.patch(f"{USERS}/{person.user.id}", headers=admin.headers, json={"is_active": is_active}))
    refused(await client.post("/api/v1/auth/refresh", json={"refresh_token": person.refresh_token}), 401, "token_revoked")


async def test_a_deactivation_ends_every_session_of_that_user_and_of_no_other(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    person = await factory.person(admin.tenant, Role.MEMBER)
    await factory.sign_in(admin.tenant, person.user)
    accepted(await client.patch(f"{USERS}/{person.user.id}", headers=admin.headers, json={"is_active": False}))
    rows = await factory.run("SELECT user_id, revoked_at IS NULL FROM sessions WHERE tenant_id = :id", id=admin.tenant.id)
    assert sorted(map(tuple, rows), key=str) == sorted([(admin.user.id, True), (person.user.id, False), (person.user.id, False)], key=str)


async def test_a_deleted_user_is_gone_from_the_next_request(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    person = await factory.person(admin.tenant, Role.MEMBER)
    accepted(await client.get("/api/v1/auth/me", headers=person.headers))
    accepted(await client.delete(f"{USERS}/{person.user.id}", headers=admin.headers), 204)
    refused(await client.get("/api/v1/auth/me", headers=person.headers), 401, "token_revoked")
    refused(await client.get(f"{USERS}/{person.user.id}", headers=admin.headers), 404, "not_found")
    refused(await client.delete(f"{USERS}/{person.user.id}", headers=admin.headers), 404, "not_found")
    credentials = {"email": person.user.email, "password": PASSWORD, "tenant_slug": admin.tenant.slug}
    refused(await client.post(LOGIN, json=credentials), 401, "invalid_credentials")


async def test_what_a_deleted_user_owned_stays_without_an_owner(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    user = await factory.user(admin.tenant)
    project = await factory.project(admin.tenant, owner_id=user.id)
    deleted = await factory.project(admin.tenant, owner_id=user.id)
    resource = await factory.resource(project, created_by=user.id)
    accepted(await client.delete(f"/api/v1/projects/{deleted.id}", headers=admin.headers), 204)
    accepted(await client.delete(f"{USERS}/{user.id}", headers=admin.headers), 204)
    assert accepted(await client.get(f"/api/v1/projects/{project.id}", headers=admin.headers))["owner_id"] is None
    assert accepted(await client.get(f"/api/v1/resources/{resource.id}", headers=admin.headers))["created_by"] is None
    assert accepted(await client.post(f"/api/v1/projects/{deleted.id}/restore", headers=admin.headers))["owner_id"] is None


async def test_the_address_of_a_deleted_user_is_free_again(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    user = await factory.user(admin.tenant)
    accepted(await client.delete(f"{USERS}/{user.id}", headers=admin.headers), 204)
    accepted(await client.post(USERS, headers=admin.headers, json=new_user(email=user.email)), 201)


async def test_a_user_who_was_never_there_is_not_found(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    path = f"{USERS}/{uuid4()}"
    refused(await client.get(path, headers=admin.headers), 404, "not_found")
    refused(await client.patch(path, headers=admin.headers, json={"full_name": "Nobody"}), 404, "not_found")
    refused(await client.delete(path, headers=admin.headers), 404, "not_found")
