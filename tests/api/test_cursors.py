"""Cursors: only those that this list has given to this tenant."""

import base64
import json
import string
from typing import Any

import pytest
from httpx import AsyncClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.answers import accepted, refused
from tests.api.collections import COLLECTIONS, INVITATIONS, PROJECTS, RESOURCES, USERS, Collection, name_of
from tests.factories import Factory, Person

SOME_ID = "01987654-3210-7000-8000-000000000000"
each_collection = pytest.mark.parametrize("collection", COLLECTIONS, ids=name_of)


async def cursor_of(client: AsyncClient, person: Person, collection: Collection, **parameters: Any) -> str:
    answer = accepted(await client.get(collection.path, headers=person.headers, params={"page_size": 1, **parameters}))
    cursor: str = answer["next_cursor"]
    return cursor


async def refuse_cursor(client: AsyncClient, person: Person, collection: Collection, cursor: str, **parameters: Any) -> None:
    response = await client.get(collection.path, headers=person.headers, params={"cursor": cursor, **parameters})
    refused(response, 422, "invalid_cursor")


async def a_person_with_rows(factory: Factory) -> Person:
    person = await factory.person()
    project = await factory.project(person.tenant)
    for collection in COLLECTIONS:
        await collection.add(factory, project, 3)
    return person


@pytest.fixture(scope="module")
async def person(factory: Factory) -> Person:
    """Somebody whose tenant has a few rows of each kind."""
    return await a_person_with_rows(factory)


@each_collection
async def test_a_cursor_of_another_tenant_is_refused(client: AsyncClient, factory: Factory, person: Person, collection: Collection) -> None:
    other = await a_person_with_rows(factory)
    await refuse_cursor(client, person, collection, await cursor_of(client, other, collection))


@each_collection
async def test_a_cursor_of_another_sort_is_refused(client: AsyncClient, person: Person, collection: Collection) -> None:
    sorts = [sign + sort for sort in collection.sorts for sign in ("", "-")]
    for given_for in sorts:
        cursor = await cursor_of(client, person, collection, sort=given_for)
        for used_for in set(sorts) - {given_for}:
            await refuse_cursor(client, person, collection, cursor, sort=used_for)


@each_collection
async def test_a_cursor_of_another_collection_is_refused(client: AsyncClient, person: Person, collection: Collection) -> None:
    for other in COLLECTIONS:
        if other is not collection:
            await refuse_cursor(client, person, collection, await cursor_of(client, person, other))


@pytest.mark.parametrize(
    ("collection", "given_for", "used_for"),
    [
        (PROJECTS, {"status": "active"}, {}),
        (PROJECTS, {}, {"status": "active"}),
        (PROJECTS, {"status": "active"}, {"status": "on_hold"}),
        (PROJECTS, {"q": "row"}, {"q": "ro"}),
        (PROJECTS, {"include_deleted": "true"}, {}),
        (PROJECTS, {}, {"include_deleted": "true"}),
        (PROJECTS, {}, {"owner_id": SOME_ID}),
        (USERS, {"role": "viewer"}, {"role": "member"}),
        (USERS, {"is_active": "true"}, {}),
        (USERS, {"is_active": "true"}, {"is_active": "false"}),
        (INVITATIONS, {"role": "viewer"}, {"role": "member"}),
        (INVITATIONS, {"q": "row"}, {}),
        (RESOURCES, {"type": "note"}, {"type": "page"}),
        (RESOURCES, {"type": "note"}, {"q": "note"}),
        (RESOURCES, {}, {"project_id": SOME_ID}),
    ],
    ids=name_of,
)
async def test_a_cursor_of_other_filters_is_refused(
    client: AsyncClient, person: Person, collection: Collection, given_for: dict[str, str], used_for: dict[str, str]
) -> None:
    await refuse_cursor(client, person, collection, await cursor_of(client, person, collection, **given_for), **used_for)


@each_collection
async def test_a_cursor_is_good_for_another_page_size(client: AsyncClient, person: Person, collection: Collection) -> None:
    cursor = await cursor_of(client, person, collection)
    accepted(await client.get(collection.path, headers=person.headers, params={"cursor": cursor, "page_size": 2, "with_total": "true"}))


async def test_a_cursor_together_with_a_page_is_refused(client: AsyncClient, person: Person) -> None:
    await refuse_cursor(client, person, PROJECTS, await cursor_of(client, person, PROJECTS), page=1)


@each_collection
async def test_a_cursor_with_any_bit_turned_is_refused(client: AsyncClient, person: Person, collection: Collection) -> None:
    raw = _decoded(await cursor_of(client, person, collection))
    for position in range(0, len(raw), 3):
        turned = bytearray(raw)
        turned[position] ^= 1 << (position % 8)
        await refuse_cursor(client, person, collection, _encoded(bytes(turned)))


@each_collection
async def test_a_cursor_that_was_cut_or_lengthened_is_refused(client: AsyncClient, person: Person, collection: Collection) -> None:
    cursor = await cursor_of(client, person, collection)
    for length in (0, 1, 2, 10, 21, 22, len(cursor) // 2, len(cursor) - 4, len(cursor) - 1):
        await refuse_cursor(client, person, collection, cursor[:length])
    for changed in (cursor + "AAAA", cursor + "=", cursor + "==", "A" + cursor, cursor + cursor, cursor.swapcase(), cursor + "\n", " " + cursor):
        await refuse_cursor(client, person, collection, changed)


@each_collection
async def test_a_cursor_with_another_last_character_is_refused(client: AsyncClient, person: Person, collection: Collection) -> None:
    cursor = await cursor_of(client, person, collection)
    for character in set(string.ascii_letters + string.digits + "-_") - {cursor[-1]}:
        await refuse_cursor(client, person, collection, cursor[:-1] + character)


@pytest.mark.parametrize("value", [["2026-01-01T00:00:00Z", SOME_ID], [None, None], [], {}, [1, 2, 3], ["x", "y"], "text", [["nested"], SOME_ID]])
async def test_a_cursor_of_one_s_own_making_is_refused(client: AsyncClient, person: Person, value: Any) -> None:
    payload = json.dumps(value).encode()
    for signature in (b"", b"\0" * 16, b"x" * 16, b"x" * 32):
        await refuse_cursor(client, person, PROJECTS, _encoded(signature + payload))


@pytest.mark.parametrize(
    "cursor", ["", "=", "====", "null", "0", "%00", "\0", "é", "🚀", "../../etc/passwd", "' OR 1=1 --", "A" * 999, "A" * 1001, "A" * 60_000]
)
async def test_garbage_is_refused_as_a_cursor(client: AsyncClient, person: Person, cursor: str) -> None:
    await refuse_cursor(client, person, PROJECTS, cursor)


@settings(max_examples=50, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=200))
async def test_random_bytes_are_refused_as_a_cursor(client: AsyncClient, person: Person, raw: bytes) -> None:
    await refuse_cursor(client, person, PROJECTS, _encoded(raw))


def _decoded(cursor: str) -> bytes:
    return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
