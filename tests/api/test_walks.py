"""A walk with cursors sees every row that was there throughout exactly once, whatever comes and goes meanwhile."""

import random
from typing import Any

import pytest
from httpx import AsyncClient

from tests.api.answers import accepted
from tests.api.collections import COLLECTIONS, PROJECTS, SORTS, Collection, name_of
from tests.factories import Factory, Person


async def page_after(client: AsyncClient, person: Person, collection: Collection, cursor: str | None, **parameters: Any) -> tuple[list[str], str | None]:
    asked = parameters if cursor is None else {**parameters, "cursor": cursor}
    answer = accepted(await client.get(collection.path, headers=person.headers, params=asked))
    assert (answer["next_cursor"] is not None) == answer["has_more"]
    return [item["id"] for item in answer["items"]], answer["next_cursor"]


@pytest.mark.parametrize(("collection", "sort"), SORTS, ids=name_of)
async def test_a_walk_sees_what_stays_exactly_once(client: AsyncClient, factory: Factory, collection: Collection, sort: str) -> None:
    chance = random.Random(f"{collection.name} {sort}")
    person = await factory.person()
    project = await factory.project(person.tenant)
    # Few distinct values: most rows tie with others, and pages end within ties.
    await collection.add(factory, project, 30, distinct=chance.choice((1, 3, 7)))
    start = await collection.identifiers(factory, person.tenant)
    keep = {str(person.user.id), str(project.id)}
    removed: set[str] = set()
    seen: list[str] = []
    cursor: str | None = None
    while True:
        identifiers, cursor = await page_after(client, person, collection, cursor, sort=sort, page_size=chance.choice((3, 7, 11)))
        seen += identifiers
        if cursor is None:
            break
        # Among those that go is, half the time, the very row that the cursor names.
        there = sorted(await collection.identifiers(factory, person.tenant) - keep)
        leaving = chance.sample(there, 2) + [identifiers[-1]] * (identifiers[-1] not in keep and chance.random() < 0.5)
        await collection.remove(factory, leaving)
        removed.update(leaving)
        await collection.add(factory, project, 2, distinct=7)
        assert len(seen) < 400, "the walk does not end"
    assert len(seen) == len(set(seen))
    assert start - removed <= set(seen)


@pytest.mark.parametrize("collection", COLLECTIONS, ids=name_of)
async def test_the_last_page_has_no_cursor_even_when_it_is_full(client: AsyncClient, factory: Factory, collection: Collection) -> None:
    person = await factory.person()
    await collection.add(factory, await factory.project(person.tenant), 20)
    number = len(await collection.identifiers(factory, person.tenant))
    identifiers, cursor = await page_after(client, person, collection, None, page_size=number)
    assert (len(identifiers), cursor) == (number, None)


@pytest.mark.parametrize("collection", COLLECTIONS, ids=name_of)
async def test_a_cursor_can_be_used_again(client: AsyncClient, factory: Factory, collection: Collection) -> None:
    person = await factory.person()
    await collection.add(factory, await factory.project(person.tenant), 30, distinct=3)
    _, cursor = await page_after(client, person, collection, None)
    assert await page_after(client, person, collection, cursor) == await page_after(client, person, collection, cursor)


async def test_a_walk_keeps_to_its_filters(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    for status in ("active", "on_hold"):
        for _ in range(5):
            await factory.project(person.tenant, status=status, name="Searched for" if status == "active" else "x")
    first, cursor = await page_after(client, person, PROJECTS, None, status="active", q="search", page_size=2)
    second, cursor = await page_after(client, person, PROJECTS, cursor, status="active", q="search", page_size=2)
    third, cursor = await page_after(client, person, PROJECTS, cursor, status="active", q="search", page_size=2)
    rows = await factory.run("SELECT id FROM projects WHERE tenant_id = :tenant AND status = 'active'", tenant=person.tenant.id)
    assert sorted(first + second + third) == sorted(str(row[0]) for row in rows)
    assert cursor is None


async def test_a_walk_over_deleted_projects_sees_them_all(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    await PROJECTS.add(factory, await factory.project(person.tenant), 20, distinct=3)
    await factory.run("UPDATE projects SET is_deleted = true, deleted_at = now() WHERE tenant_id = :id AND random() < 0.5", id=person.tenant.id)
    seen, cursor = await page_after(client, person, PROJECTS, None, include_deleted="true", page_size=6)
    while cursor is not None:
        more, cursor = await page_after(client, person, PROJECTS, cursor, include_deleted="true", page_size=6)
        seen += more
    assert sorted(seen) == sorted(await PROJECTS.identifiers(factory, person.tenant))


@pytest.mark.parametrize("character", ["🚀", "\x01", '"', "\\", "é"])
async def test_a_walk_by_name_goes_on_behind_the_longest_name(client: AsyncClient, factory: Factory, character: str) -> None:
    person = await factory.person()
    for _ in range(3):
        await factory.project(person.tenant, name=character * 200)
    seen, cursor = await page_after(client, person, PROJECTS, None, sort="name", page_size=1)
    while cursor is not None:
        more, cursor = await page_after(client, person, PROJECTS, cursor, sort="name", page_size=1)
        seen += more
    assert sorted(seen) == sorted(await PROJECTS.identifiers(factory, person.tenant))
