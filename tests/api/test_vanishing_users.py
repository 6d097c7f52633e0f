"""A user who is deleted while a request of theirs is under way."""

import pytest
from httpx import AsyncClient

from app.models import Role
from tests.api.answers import problem_in
from tests.api.concurrency import statement_not_yet_committed
from tests.factories import Factory

DELETION = "WITH ended AS (DELETE FROM sessions WHERE user_id = $1) DELETE FROM users WHERE id = $1"


@pytest.mark.parametrize("path", ["/api/v1/projects", "/api/v1/resources"])
async def test_whoever_is_deleted_meanwhile_is_told_so(client: AsyncClient, factory: Factory, database_urls: tuple[str, str], path: str) -> None:
    person = await factory.person(role=Role.MEMBER)
    project = await factory.project(person.tenant)
    body = {"name": "x"} if path.endswith("projects") else {"name": "x", "project_id": str(project.id), "type": "note", "data": {}}
    async with statement_not_yet_committed(database_urls[0], DELETION, person.user.id) as deleting:
        response = await deleting.commit_while(client.post(path, headers=person.headers, json=body))
    assert problem_in(response)["status"] in (401, 409)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_an_owner_who_is_deleted_meanwhile_is_refused(client: AsyncClient, factory: Factory, database_urls: tuple[str, str], method: str) -> None:
    admin = await factory.person()
    user = await factory.user(admin.tenant)
    project = await factory.project(admin.tenant)
    path = "/api/v1/projects" + (f"/{project.id}" if method == "PATCH" else "")
    async with statement_not_yet_committed(database_urls[0], DELETION, user.id) as deleting:
        response = await deleting.commit_while(client.request(method, path, headers=admin.headers, json={"name": "x", "owner_id": str(user.id)}))
    assert problem_in(response)["status"] in (409, 422)
