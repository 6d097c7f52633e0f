"""A page costs the same at any depth: what the lists ask PostgreSQL is answered out of an index, behind row-level security too."""

import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from httpx import AsyncClient

from app.database import Query, Reader
from tests.api.answers import accepted
from tests.api.collections import COLLECTIONS, PROJECTS, RESOURCES, SORTS, USERS, Collection, name_of
from tests.factories import Factory, Person

ROWS = 4_000
Statement = tuple[str, list[Any]]


@pytest.fixture(scope="module")
async def person(factory: Factory) -> Person:
    """Somebody in a tenant with many rows, beside another one with as many."""
    made = await factory.person()
    for tenant in (made.tenant, await factory.tenant()):
        project = await factory.project(tenant)
        for collection in COLLECTIONS:
            await collection.add(factory, project, ROWS)
    for collection in COLLECTIONS:
        await factory.run(f"ANALYZE {collection.name}")
    return made


@pytest.fixture
async def service(database_urls: tuple[str, str], person: Person) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection of the service's role, in a transaction that has named the tenant."""
    connection = await asyncpg.connect(database_urls[1])
    await connection.execute(f"BEGIN READ ONLY; SET LOCAL app.tenant_id = '{person.tenant.id}'")
    yield connection
    await connection.close()


async def statement_of(client: AsyncClient, person: Person, collection: Collection, **parameters: Any) -> tuple[Statement, dict[str, Any]]:
    """Ask for a page. Returns the statement that the service ran for it, and the answer."""
    ran: list[Statement] = []
    fetch = Reader.fetch

    async def recording(reader: Reader, query: Query, **values: Any) -> list[asyncpg.Record]:
        ran.append((query.sql, query.arguments(values)))
        return await fetch(reader, query, **values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reader, "fetch", recording)
        answer = accepted(await client.get(collection.path, headers=person.headers, params=parameters))
    (statement,) = ran
    return statement, answer


async def plan_of(service: "asyncpg.Connection[asyncpg.Record]", statement: Statement) -> dict[str, Any]:
    """Run a statement and return the plan that it had, with what it touched."""
    sql, arguments = statement
    found = await service.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", *arguments)
    plan: dict[str, Any] = json.loads(found)[0]["Plan"]
    return plan


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", ()) for node in nodes(child))]


def pages_touched(plan: dict[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


async def deep_cursor(client: AsyncClient, person: Person, collection: Collection, **parameters: Any) -> str:
    """Return a cursor into the second half of the list."""
    answer = accepted(await client.get(collection.path, headers=person.headers, params={**parameters, "page": 30, "page_size": 100}))
    cursor: str = answer["next_cursor"]
    return cursor


@pytest.mark.parametrize(("collection", "sort"), SORTS, ids=name_of)
async def test_a_deep_page_costs_what_a_shallow_one_costs(
    client: AsyncClient, service: "asyncpg.Connection[asyncpg.Record]", person: Person, collection: Collection, sort: str
) -> None:
    _, first = await statement_of(client, person, collection, sort=sort)
    shallow, _ = await statement_of(client, person, collection, sort=sort, cursor=first["next_cursor"])
    deep, _ = await statement_of(client, person, collection, sort=sort, cursor=await deep_cursor(client, person, collection, sort=sort))
    costs = []
    for statement in (shallow, deep):
        plan = await plan_of(service, statement)
        kinds = {node["Node Type"] for node in nodes(plan)}
        assert "Index Scan" in kinds, plan
        # Addresses are unique, so their index holds no identifier, and ties are put in order as they come.
        assert not kinds & {"Sort", "Seq Scan", "Bitmap Heap Scan"}, plan
        assert sum(node.get("Rows Removed by Filter", 0) for node in nodes(plan)) < 50, plan
        costs.append(pages_touched(plan))
    assert costs[1] <= 2 * costs[0] + 20, costs


async def test_a_filter_by_status_walks_an_index_too(client: AsyncClient, service: "asyncpg.Connection[asyncpg.Record]", person: Person) -> None:
    asked = {"status": "active"}
    statement, _ = await statement_of(client, person, COLLECTIONS[0], **asked, cursor=await deep_cursor(client, person, COLLECTIONS[0], **asked))
    plan = await plan_of(service, statement)
    assert not {node["Node Type"] for node in nodes(plan)} & {"Sort", "Seq Scan"}, plan
    assert pages_touched(plan) < 150


async def test_one_row_is_found_by_its_key(client: AsyncClient, service: "asyncpg.Connection[asyncpg.Record]", person: Person) -> None:
    ran: list[Statement] = []
    fetch_one = Reader.fetch_one

    async def recording(reader: Reader, query: Query, **values: Any) -> asyncpg.Record | None:
        ran.append((query.sql, query.arguments(values)))
        return await fetch_one(reader, query, **values)

    for collection in (PROJECTS, USERS, RESOURCES):
        item = accepted(await client.get(collection.path, headers=person.headers))["items"][0]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Reader, "fetch_one", recording)
            accepted(await client.get(f"{collection.path}/{item['id']}", headers=person.headers))
        plan = await plan_of(service, ran[-1])
        assert "Seq Scan" not in {node["Node Type"] for node in nodes(plan)}, plan
        assert sum(node.get("Rows Removed by Filter", 0) for node in nodes(plan)) == 0, plan
