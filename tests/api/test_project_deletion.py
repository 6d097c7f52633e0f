"""Deleting a project can be taken back, and its resources go and come with it."""

import asyncio

import pytest
from httpx import AsyncClient

from app.models import Role
from tests.api.answers import accepted, refused
from tests.api.concurrency import statement_not_yet_committed
from tests.factories import Factory

PROJECTS = "/api/v1/projects"
RESOURCES = "/api/v1/resources"


@pytest.mark.parametrize("role", [Role.MEMBER, Role.ADMIN])
async def test_a_deleted_project_is_gone_for_everybody(client: AsyncClient, factory: Factory, role: Role) -> None:
    admin = await factory.person()
    project = await factory.project(admin.tenant)
    accepted(await client.delete(f"{PROJECTS}/{project.id}", headers=admin.headers), 204)
    person = await factory.person(admin.tenant, role)
    path = f"{PROJECTS}/{project.id}"
    refused(await client.get(path, headers=person.headers), 404, "not_found")
    refused(await client.patch(path, headers=person.headers, json={"name": "x"}), 404, "not_found")
    refused(await client.delete(path, headers=person.headers), 404, "not_found")
    assert accepted(await client.get(PROJECTS, headers=person.headers))["items"] == []


async def test_the_answer_to_a_deletion_is_empty(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    project = await factory.project(admin.tenant)
    response = await client.delete(f"{PROJECTS}/{project.id}", headers=admin.headers)
    assert (response.status_code, response.content) == (204, b"")


async def test_an_admin_sees_deleted_projects_where_they_are_asked_for(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    kept, deleted = await factory.project(admin.tenant), await factory.project(admin.tenant)
    accepted(await client.delete(f"{PROJECTS}/{deleted.id}", headers=admin.headers), 204)
    listed = accepted(await client.get(PROJECTS, headers=admin.headers, params={"include_deleted": "true", "sort": "created_at"}))["items"]
    assert [(item["id"], item["is_deleted"], item["deleted_at"] is not None) for item in listed] == [
        (str(kept.id), False, False),
        (str(deleted.id), True, True),
    ]
    assert len(accepted(await client.get(PROJECTS, headers=admin.headers, params={"include_deleted": "false"}))["items"]) == 1


@pytest.mark.parametrize("role", [Role.VIEWER, Role.MEMBER])
async def test_nobody_else_may_ask_for_deleted_projects(client: AsyncClient, factory: Factory, role: Role) -> None:
    person = await factory.person(role=role)
    refused(await client.get(PROJECTS, headers=person.headers, params={"include_deleted": "true"}), 403, "forbidden")
    accepted(await client.get(PROJECTS, headers=person.headers, params={"include_deleted": "false"}))


async def test_a_member_deletes_their_own_project_and_no_other(client: AsyncClient, factory: Factory) -> None:
    member = await factory.person(role=Role.MEMBER)
    colleague = await factory.user(member.tenant)
    own = await factory.project(member.tenant, owner_id=member.user.id)
    accepted(await client.delete(f"{PROJECTS}/{own.id}", headers=member.headers), 204)
    for owner_id in (colleague.id, None):
        project = await factory.project(member.tenant, owner_id=owner_id)
        refused(await client.delete(f"{PROJECTS}/{project.id}", headers=member.headers), 403, "forbidden")


async def test_an_owner_who_is_only_a_viewer_by_now_deletes_nothing(client: AsyncClient, factory: Factory) -> None:
    viewer = await factory.person(role=Role.VIEWER)
    project = await factory.project(viewer.tenant, owner_id=viewer.user.id)
    refused(await client.delete(f"{PROJECTS}/{project.id}", headers=viewer.headers), 403, "forbidden")


async def test_a_restored_project_is_as_it_was(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    project = await factory.project(admin.tenant, description="text", owner_id=admin.user.id)
    before = accepted(await client.get(f"{PROJECTS}/{project.id}", headers=admin.headers))
    accepted(await client.delete(f"{PROJECTS}/{project.id}", headers=admin.headers), 204)
    restored = accepted(await client.post(f"{PROJECTS}/{project.id}/restore", headers=admin.headers))
    assert restored == {**before, "version": restored["version"], "updated_at": restored["updated_at"]}
    assert restored["version"] == before["version"] + 2
    assert restored == accepted(await client.get(f"{PROJECTS}/{project.id}", headers=admin.headers))


async def test_restoring_what_was_not_deleted_changes_nothing(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    project = await factory.project(admin.tenant)
    before = accepted(await client.get(f"{PROJECTS}/{project.id}", headers=admin.headers))
    assert accepted(await client.post(f"{PROJECTS}/{project.id}/restore", headers=admin.headers)) == before


async def test_resources_are_hidden_with_their_project(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    project, other = await factory.project(admin.tenant), await factory.project(admin.tenant)
    hidden, shown = await factory.resource(project), await factory.resource(other)
    accepted(await client.delete(f"{PROJECTS}/{project.id}", headers=admin.headers), 204)
    path = f"{RESOURCES}/{hidden.id}"
    refused(await client.get(path, headers=admin.headers), 404, "not_found")
    refused(await client.patch(path, headers=admin.headers, json={"name": "x"}), 404, "not_found")
    refused(await client.delete(path, headers=admin.headers), 404, "not_found")
    listed = accepted(await client.get(RESOURCES, headers=admin.headers, params={"with_total": "true"}))
    assert ([item["id"] for item in listed["items"]], listed["total"]) == ([str(shown.id)], 1)
    assert accepted(await client.get(RESOURCES, headers=admin.headers, params={"project_id": str(project.id)}))["items"] == []


async def test_resources_come_back_with_their_project(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    project = await factory.project(admin.tenant)
    resource = await factory.resource(project)
    before = accepted(await client.get(f"{RESOURCES}/{resource.id}", headers=admin.headers))
    accepted(await client.delete(f"{PROJECTS}/{project.id}", headers=admin.headers), 204)
    accepted(await client.post(f"{PROJECTS}/{project.id}/restore", headers=admin.headers))
    assert accepted(await client.get(f"{RESOURCES}/{resource.id}", headers=admin.headers)) == before


async def test_a_deleted_project_takes_no_new_resources(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    project = await factory.project(admin.tenant)
    accepted(await client.delete(f"{PROJECTS}/{project.id}", headers=admin.headers), 204)
    body = {"project_id": str(project.id), "name": "x", "type": "note", "data": {}}
    refused(await client.post(RESOURCES, headers=admin.headers, json=body), 404, "project_not_found")


async def test_a_project_that_is_being_deleted_takes_no_new_resources(client: AsyncClient, factory: Factory, database_urls: tuple[str, str]) -> None:
    admin = await factory.person()
    project = await factory.project(admin.tenant)
    body = {"project_id": str(project.id), "name": "x", "type": "note", "data": {}}
    deletion = "UPDATE projects SET is_deleted = true, deleted_at = now() WHERE id = $1"
    async with statement_not_yet_committed(database_urls[0], deletion, project.id) as deleting:
        response = await deleting.commit_while(client.post(RESOURCES, headers=admin.headers, json=body))
    refused(response, 404, "project_not_found")


async def test_resources_and_the_deletion_of_their_project_may_come_at_once(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    for _ in range(5):
        project = await factory.project(admin.tenant)
        body = {"project_id": str(project.id), "name": "x", "type": "note", "data": {}}
        *created, deleted = await asyncio.gather(
            *(client.post(RESOURCES, headers=admin.headers, json=body) for _ in range(3)), client.delete(f"{PROJECTS}/{project.id}", headers=admin.headers)
        )
        accepted(deleted, 204)
        statuses = [response.status_code for response in created]
        assert set(statuses) <= {201, 404}
        assert len(await factory.run("SELECT 1 FROM resources WHERE project_id = :id", id=project.id)) == statuses.count(201)
