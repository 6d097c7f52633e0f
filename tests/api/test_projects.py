"""Projects: what a client can rely on."""

from httpx import AsyncClient

from app.models import Role
from tests.factories import Factory


async def test_a_created_project_is_found_at_its_location(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person(role=Role.MEMBER)
    created = await client.post("/api/v1/projects", headers=person.headers, json={"name": "Website"})
    assert created.status_code == 201, created.text
    found = await client.get(created.headers["Location"], headers=person.headers)
    assert found.json() == created.json()
    assert found.json()["owner_id"] == str(person.user.id)
