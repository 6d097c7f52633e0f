"""Resources of projects."""

import json
from typing import Any
from uuid import uuid4

import pytest
from httpx import AsyncClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.models import Role
from tests.api.answers import accepted, refused
from tests.api.world import World
from tests.factories import Factory

RESOURCES = "/api/v1/resources"
FIELDS = {"id", "project_id", "name", "type", "data", "version", "created_by", "created_at", "updated_at"}
LARGEST_DATA = 64 * 1024

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=20
)


def new_resource(world: World, **changes: Any) -> dict[str, Any]:
    return {"project_id": str(world.project.id), "name": "Landing page", "type": "page", "data": {"title": "Hello"}, **changes}


async def test_a_created_resource_is_found_at_its_location(client: AsyncClient, world: World) -> None:
    created = await client.post(RESOURCES, headers=world.member.headers, json=new_resource(world))
    assert accepted(created, 201).keys() == FIELDS
    assert created.headers["location"] == f"{RESOURCES}/{created.json()['id']}"
    assert accepted(await client.get(created.headers["location"], headers=world.viewer.headers)) == created.json()
    assert (created.json()["version"], created.json()["created_by"]) == (1, str(world.member.user.id))


@pytest.mark.parametrize("whose", ["another tenant's", "nobody's"])
async def test_a_resource_belongs_to_a_project_of_the_tenant(client: AsyncClient, factory: Factory, world: World, whose: str) -> None:
    project_id = (await factory.project(await factory.tenant())).id if whose == "another tenant's" else uuid4()
    refused(await client.post(RESOURCES, headers=world.admin.headers, json=new_resource(world, project_id=str(project_id))), 404, "project_not_found")


@settings(max_examples=40, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.dictionaries(texts, values, max_size=4))
async def test_any_json_object_comes_back_as_it_was(client: AsyncClient, world: World, data: dict[str, Any]) -> None:
    created = accepted(await client.post(RESOURCES, headers=world.member.headers, json=new_resource(world, data=data)), 201)
    found = await client.get(f"{RESOURCES}/{created['id']}", headers=world.member.headers)
    # As text: for Python, 1, 1.0 and True are equal.
    assert json.dumps(found.json()["data"]) == json.dumps(created["data"]) == json.dumps(data)


@pytest.mark.parametrize("data", [[], "text", 1, None, True])
async def test_data_is_an_object(client: AsyncClient, world: World, data: Any) -> None:
    refused(await client.post(RESOURCES, headers=world.member.headers, json=new_resource(world, data=data)), 422, "validation_error")


async def test_data_has_64_kib_at_the_most(client: AsyncClient, world: World) -> None:
    largest = {"x": "a" * (LARGEST_DATA - len('{"x":""}'))}
    accepted(await client.post(RESOURCES, headers=world.member.headers, json=new_resource(world, data=largest)), 201)
    larger = {"x": largest["x"] + "a"}
    refused(await client.post(RESOURCES, headers=world.member.headers, json=new_resource(world, data=larger)), 422, "validation_error")


async def test_numbers_too_large_to_hold_are_refused(client: AsyncClient, world: World) -> None:
    for number in ("1e999", "-1e999", "NaN", "Infinity", "-Infinity"):
        body = json.dumps(new_resource(world, data={"x": ["y"]})).replace('"y"', number)
        response = await client.post(RESOURCES, headers={**world.member.headers, "Content-Type": "application/json"}, content=body)
        refused(response, 422, "validation_error")


@pytest.mark.parametrize("kind", ["", " ", "two words", "x" * 51, "-x", "a/b", "a\n", "a\0", "ä" * 51, None, 7])
async def test_a_type_is_a_short_word(client: AsyncClient, world: World, kind: Any) -> None:
    refused(await client.post(RESOURCES, headers=world.member.headers, json=new_resource(world, type=kind)), 422, "validation_error")


@pytest.mark.parametrize("kind", ["x", "landing-page", "v1.2_draft", "größe", "x" * 50])
async def test_a_type_is_free(client: AsyncClient, world: World, kind: str) -> None:
    assert accepted(await client.post(RESOURCES, headers=world.member.headers, json=new_resource(world, type=kind)), 201)["type"] == kind


async def test_each_change_is_a_new_version(client: AsyncClient, world: World) -> None:
    created = accepted(await client.post(RESOURCES, headers=world.member.headers, json=new_resource(world)), 201)
    path = f"{RESOURCES}/{created['id']}"
    changes: list[dict[str, Any]] = [{"name": "Other"}, {"type": "draft"}, {"data": {"b": 1}}, {"name": "Third", "data": {}}]
    for version, change in enumerate(changes, start=2):
        changed = accepted(await client.patch(path, headers=world.member.headers, json=change))
        assert {name: changed[name] for name in change} == change
        assert changed["version"] == version
        assert changed == accepted(await client.get(path, headers=world.member.headers))


async def test_data_is_replaced_whole(client: AsyncClient, world: World) -> None:
    created = accepted(await client.post(RESOURCES, headers=world.member.headers, json=new_resource(world, data={"a": 1, "b": 2})), 201)
    changed = accepted(await client.patch(f"{RESOURCES}/{created['id']}", headers=world.member.headers, json={"data": {"b": None}}))
    assert changed["data"] == {"b": None}


@pytest.mark.parametrize("change", [{}, {"name": "Landing page"}, {"data": {"title": "Hello"}}, {"type": "page", "name": " Landing page"}])
async def test_a_change_that_changes_nothing_leaves_even_time_and_version(client: AsyncClient, world: World, change: dict[str, Any]) -> None:
    created = accepted(await client.post(RESOURCES, headers=world.member.headers, json=new_resource(world)), 201)
    path = f"{RESOURCES}/{created['id']}"
    assert accepted(await client.patch(path, headers=world.member.headers, json=change)) == created
    assert accepted(await client.get(path, headers=world.member.headers)) == created


@pytest.mark.parametrize(
    ("old", "new"),
    [("1", "true"), ("0", "false"), ("1", "1.0"), ("0.0", "-0.0"), ("1", '"1"'), ("null", "{}"), ("[]", "{}"), ('""', "null"), ("false", "null")],
)
async def test_what_is_equal_for_python_is_still_a_change_of_json(client: AsyncClient, world: World, old: str, new: str) -> None:
    body = new_resource(world, data={"x": [json.loads(old)]})
    created = accepted(await client.post(RESOURCES, headers=world.member.headers, json=body), 201)
    path = f"{RESOURCES}/{created['id']}"
    changed = await client.patch(path, headers=world.member.headers, json={"data": {"x": [json.loads(new)]}})
    assert accepted(changed)["version"] == 2
    assert json.dumps(accepted(await client.get(path, headers=world.member.headers))["data"]) == f'{{"x": [{new}]}}'


@pytest.mark.parametrize("field", ["name", "type", "data"])
async def test_no_field_of_a_resource_can_be_emptied(client: AsyncClient, world: World, field: str) -> None:
    refused(await client.patch(f"{RESOURCES}/{world.resource.id}", headers=world.member.headers, json={field: None}), 422, "validation_error")


@pytest.mark.parametrize("field", ["id", "tenant_id", "project_id", "version", "created_by", "created_at"])
async def test_what_is_not_for_clients_to_change_is_refused(client: AsyncClient, world: World, field: str) -> None:
    change = {field: str(uuid4())}
    refused(await client.patch(f"{RESOURCES}/{world.resource.id}", headers=world.member.headers, json=change), 422, "validation_error")


async def test_a_member_changes_and_deletes_what_somebody_else_made(client: AsyncClient, factory: Factory, world: World) -> None:
    resource = await factory.resource(world.project, created_by=world.admin.user.id)
    path = f"{RESOURCES}/{resource.id}"
    accepted(await client.patch(path, headers=world.member.headers, json={"name": "Ours"}))
    accepted(await client.delete(path, headers=world.member.headers), 204)


async def test_a_deleted_resource_is_really_gone(client: AsyncClient, factory: Factory, world: World) -> None:
    resource = await factory.resource(world.project)
    path = f"{RESOURCES}/{resource.id}"
    accepted(await client.delete(path, headers=world.member.headers), 204)
    refused(await client.get(path, headers=world.member.headers), 404, "not_found")
    refused(await client.delete(path, headers=world.member.headers), 404, "not_found")
    assert await factory.run("SELECT 1 FROM resources WHERE id = :id", id=resource.id) == []


async def test_a_viewer_only_reads(client: AsyncClient, factory: Factory) -> None:
    viewer = await factory.person(role=Role.VIEWER)
    resource = await factory.resource(await factory.project(viewer.tenant))
    path = f"{RESOURCES}/{resource.id}"
    accepted(await client.get(path, headers=viewer.headers))
    refused(await client.patch(path, headers=viewer.headers, json={"name": "x"}), 403, "forbidden")
    refused(await client.delete(path, headers=viewer.headers), 403, "forbidden")


async def test_data_is_not_larger_when_it_is_read_than_when_it_was_accepted(client: AsyncClient, world: World) -> None:
    """As numbers of arbitrary precision, each 1e308 would come back in 309 digits: fifty times as large."""
    body = new_resource(world, data={"numbers": [1e308] * 9_000})
    created = accepted(await client.post(RESOURCES, headers=world.member.headers, json=body), 201)
    read = await client.get(f"{RESOURCES}/{created['id']}", headers=world.member.headers)
    assert accepted(read)["data"] == body["data"]
    assert len(read.content) < 65_536


async def test_data_is_answered_as_it_is_stored_without_being_taken_apart(client: AsyncClient, factory: Factory, world: World) -> None:
    """Nobody who had read this text as JSON would write it the same again."""
    stored = '{ "twice": 1.0e0,\n"twice" :1.0E+0, "escaped":"\\u0041\\/", "no":   [ ] }'
    resource = await factory.resource(world.project)
    await factory.run("UPDATE resources SET data = CAST(:data AS json) WHERE id = :id", data=stored, id=resource.id)
    for path in (f"{RESOURCES}/{resource.id}", f"{RESOURCES}?page_size=100"):
        answer = await client.get(path, headers=world.viewer.headers)
        assert accepted(answer)
        assert f'"data":{stored},' in answer.text
