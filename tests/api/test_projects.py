"""Projects: what a client can rely on."""

import asyncio
import re
from typing import Any
from uuid import uuid4

import pytest
from httpx import AsyncClient

from app.models import Role
from tests.api.answers import accepted, refused
from tests.factories import Factory

PROJECTS = "/api/v1/projects"
FIELDS = {"id", "name", "description", "status", "owner_id", "view_count", "is_deleted", "deleted_at", "created_at", "updated_at", "version"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")


async def test_a_created_project_is_found_at_its_location(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person(role=Role.MEMBER)
    created = await client.post(PROJECTS, headers=person.headers, json={"name": "Website"})
    assert created.status_code == 201, created.text
    found = await client.get(created.headers["Location"], headers=person.headers)
    assert found.json() == created.json()
    assert found.json()["owner_id"] == str(person.user.id)


async def test_a_project_has_these_fields_and_no_others(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    created = accepted(await client.post(PROJECTS, headers=person.headers, json={"name": "Website"}), 201)
    assert created.keys() == FIELDS
    assert accepted(await client.get(PROJECTS, headers=person.headers))["items"] == [created]
    standard = {"description": None, "status": "active", "view_count": 0, "is_deleted": False, "deleted_at": None, "version": 1}
    assert {name: created[name] for name in standard} == standard


async def test_identifiers_are_version_7_and_times_are_utc_to_the_microsecond(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    created = accepted(await client.post(PROJECTS, headers=person.headers, json={"name": "Website"}), 201)
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", created["id"])
    assert TIME.fullmatch(created["created_at"])
    assert TIME.fullmatch(created["updated_at"])
    ((stored,),) = await factory.run("SELECT to_char(created_at AT TIME ZONE 'utc', 'US') FROM projects WHERE id = :id", id=created["id"])
    assert stored.rstrip("0") == created["created_at"].rstrip("Z").partition(".")[2].rstrip("0")


async def test_a_name_is_kept_without_the_spaces_around_it(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    assert accepted(await client.post(PROJECTS, headers=person.headers, json={"name": "  Web site \n"}), 201)["name"] == "Web site"


@pytest.mark.parametrize(
    "text", ["Grüße, 世界 🚀", "e\u0301 and é", "\u200b zero width", "'; DROP TABLE projects; --", "<script>alert(1)</script>", "\x1b[31m"]
)
async def test_any_text_comes_back_as_it_was(client: AsyncClient, factory: Factory, text: str) -> None:
    person = await factory.person()
    created = accepted(await client.post(PROJECTS, headers=person.headers, json={"name": text, "description": text}), 201)
    found = accepted(await client.get(f"{PROJECTS}/{created['id']}", headers=person.headers))
    assert (found["name"], found["description"]) == (text, text)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "  "},
        {"name": "\u00a0\u2003"},
        {"name": "x" * 201},
        {"name": None},
        {"name": "x", "description": "x" * 10_001},
        {"name": "x", "status": "open"},
    ],
)
async def test_a_project_that_is_not_right_is_refused(client: AsyncClient, factory: Factory, body: dict[str, Any]) -> None:
    person = await factory.person()
    refused(await client.post(PROJECTS, headers=person.headers, json=body), 422, "validation_error")
    assert accepted(await client.get(PROJECTS, headers=person.headers))["items"] == []


async def test_the_longest_texts_are_accepted(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    accepted(await client.post(PROJECTS, headers=person.headers, json={"name": "🚀" * 200, "description": "🚀" * 10_000}), 201)


async def test_an_admin_makes_a_project_for_somebody_else(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    user = await factory.user(admin.tenant, Role.VIEWER)
    created = accepted(await client.post(PROJECTS, headers=admin.headers, json={"name": "Yours", "owner_id": str(user.id)}), 201)
    assert created["owner_id"] == str(user.id)


async def test_a_member_cannot_make_a_project_for_somebody_else(client: AsyncClient, factory: Factory) -> None:
    member = await factory.person(role=Role.MEMBER)
    user = await factory.user(member.tenant)
    refused(await client.post(PROJECTS, headers=member.headers, json={"name": "Yours", "owner_id": str(user.id)}), 403, "forbidden")
    accepted(await client.post(PROJECTS, headers=member.headers, json={"name": "Mine", "owner_id": str(member.user.id)}), 201)


@pytest.mark.parametrize("whose", ["another tenant's", "nobody's"])
async def test_the_owner_must_be_of_the_tenant(client: AsyncClient, factory: Factory, whose: str) -> None:
    admin, other = await factory.person(), await factory.person()
    owner_id = str(other.user.id if whose == "another tenant's" else uuid4())
    project = await factory.project(admin.tenant)
    refused(await client.post(PROJECTS, headers=admin.headers, json={"name": "x", "owner_id": owner_id}), 422, "owner_not_found")
    refused(await client.patch(f"{PROJECTS}/{project.id}", headers=admin.headers, json={"owner_id": owner_id}), 422, "owner_not_found")


async def test_a_change_changes_what_it_names_and_nothing_else(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person(role=Role.MEMBER)
    project = await factory.project(person.tenant, description="text", owner_id=person.user.id)
    before = accepted(await client.get(f"{PROJECTS}/{project.id}", headers=person.headers))
    after = accepted(await client.patch(f"{PROJECTS}/{project.id}", headers=person.headers, json={"status": "on_hold"}))
    assert after == {**before, "status": "on_hold", "version": before["version"] + 1, "updated_at": after["updated_at"]}
    assert after["updated_at"] > before["updated_at"]
    assert after == accepted(await client.get(f"{PROJECTS}/{project.id}", headers=person.headers))


@pytest.mark.parametrize("change", [{}, {"name": "The Same"}, {"name": " The Same "}, {"description": None}, {"status": "active", "owner_id": None}])
async def test_a_change_that_changes_nothing_leaves_even_time_and_version(client: AsyncClient, factory: Factory, change: dict[str, Any]) -> None:
    person = await factory.person()
    project = await factory.project(person.tenant, name="The Same")
    before = accepted(await client.get(f"{PROJECTS}/{project.id}", headers=person.headers))
    assert accepted(await client.patch(f"{PROJECTS}/{project.id}", headers=person.headers, json=change)) == before
    assert accepted(await client.get(f"{PROJECTS}/{project.id}", headers=person.headers)) == before


async def test_null_empties_what_may_be_empty(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    project = await factory.project(admin.tenant, description="text", owner_id=admin.user.id)
    changed = accepted(await client.patch(f"{PROJECTS}/{project.id}", headers=admin.headers, json={"description": None, "owner_id": None}))
    assert (changed["description"], changed["owner_id"]) == (None, None)


@pytest.mark.parametrize("field", ["name", "status"])
async def test_null_is_refused_for_what_may_not_be_empty(client: AsyncClient, factory: Factory, field: str) -> None:
    admin = await factory.person()
    project = await factory.project(admin.tenant)
    refused(await client.patch(f"{PROJECTS}/{project.id}", headers=admin.headers, json={field: None}), 422, "validation_error")


@pytest.mark.parametrize("field", ["id", "tenant_id", "view_count", "is_deleted", "deleted_at", "created_at", "updated_at", "version"])
async def test_what_is_not_for_clients_to_change_is_refused(client: AsyncClient, factory: Factory, field: str) -> None:
    admin = await factory.person()
    project = await factory.project(admin.tenant)
    refused(await client.patch(f"{PROJECTS}/{project.id}", headers=admin.headers, json={field: 1}), 422, "validation_error")
    refused(await client.post(PROJECTS, headers=admin.headers, json={"name": "x", field: 1}), 422, "validation_error")


async def test_a_member_gives_no_project_to_somebody_else(client: AsyncClient, factory: Factory) -> None:
    member = await factory.person(role=Role.MEMBER)
    user = await factory.user(member.tenant)
    project = await factory.project(member.tenant, owner_id=member.user.id)
    for owner_id in (str(user.id), None):
        refused(await client.patch(f"{PROJECTS}/{project.id}", headers=member.headers, json={"owner_id": owner_id}), 403, "forbidden")
    accepted(await client.patch(f"{PROJECTS}/{project.id}", headers=member.headers, json={"owner_id": str(member.user.id)}))


async def test_a_member_takes_no_project_from_somebody_else(client: AsyncClient, factory: Factory) -> None:
    member = await factory.person(role=Role.MEMBER)
    project = await factory.project(member.tenant)
    refused(await client.patch(f"{PROJECTS}/{project.id}", headers=member.headers, json={"owner_id": str(member.user.id)}), 403, "forbidden")


async def test_a_member_changes_a_project_of_somebody_else(client: AsyncClient, factory: Factory) -> None:
    member = await factory.person(role=Role.MEMBER)
    project = await factory.project(member.tenant)
    accepted(await client.patch(f"{PROJECTS}/{project.id}", headers=member.headers, json={"name": "Ours"}))


async def test_each_of_many_changes_at_once_is_a_version(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    project = await factory.project(person.tenant)
    path = f"{PROJECTS}/{project.id}"
    answers = await asyncio.gather(*(client.patch(path, headers=person.headers, json={"name": f"Name {i}"}) for i in range(10)))
    assert sorted(accepted(answer)["version"] for answer in answers) == list(range(2, 12))


async def test_a_project_that_was_never_there_is_not_found(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    path = f"{PROJECTS}/{uuid4()}"
    refused(await client.get(path, headers=admin.headers), 404, "not_found")
    refused(await client.patch(path, headers=admin.headers, json={"name": "x"}), 404, "not_found")
    refused(await client.delete(path, headers=admin.headers), 404, "not_found")
    refused(await client.post(f"{path}/restore", headers=admin.headers), 404, "not_found")
