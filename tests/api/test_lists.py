"""Lists: filtered, searched, sorted, and numbered by page."""

from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from httpx import AsyncClient

from app.models import Role
from tests.api.answers import accepted, refused
from tests.api.collections import COLLECTIONS, INVITATIONS, PROJECTS, RESOURCES, SORTS, USERS, Collection, name_of
from tests.factories import Factory, Person

each_collection = pytest.mark.parametrize("collection", COLLECTIONS, ids=name_of)


async def listed(client: AsyncClient, person: Person, collection: Collection, **parameters: Any) -> dict[str, Any]:
    answer: dict[str, Any] = accepted(await client.get(collection.path, headers=person.headers, params=parameters))
    return answer


async def found(client: AsyncClient, person: Person, collection: Collection, **parameters: Any) -> set[str]:
    return {item["id"] for item in (await listed(client, person, collection, **parameters))["items"]}


async def a_person_with(factory: Factory, collection: Collection, number: int, **options: int) -> Person:
    person = await factory.person()
    await collection.add(factory, await factory.project(person.tenant), number, **options)
    return person


@each_collection
async def test_a_list_is_empty_where_nothing_matches(client: AsyncClient, factory: Factory, collection: Collection) -> None:
    person = await factory.person()
    answer = await listed(client, person, collection, q="no such thing")
    assert answer == {"items": [], "page_size": 20, "has_more": False, "next_cursor": None}


@each_collection
async def test_a_page_has_twenty_rows_unless_said_otherwise(client: AsyncClient, factory: Factory, collection: Collection) -> None:
    person = await a_person_with(factory, collection, 120)
    for asked, size in (({}, 20), ({"page_size": 1}, 1), ({"page_size": 100}, 100)):
        answer = await listed(client, person, collection, **asked)
        assert (len(answer["items"]), answer["page_size"], answer["has_more"]) == (size, size, True)
        assert answer["next_cursor"]


@each_collection
@pytest.mark.parametrize("size", ["0", "-1", "101", "9" * 30, "9" * 5000, "1.5", "ten", "", "NaN", "1e2", "٣"])
async def test_an_absurd_page_size_is_refused(client: AsyncClient, factory: Factory, collection: Collection, size: str) -> None:
    person = await factory.person()
    for name in ("page_size", "page"):
        if name == "page_size" or size not in ("101", "9" * 30):
            response = await client.get(collection.path, headers=person.headers, params={name: size})
            refused(response, 422, "validation_error")


@each_collection
@pytest.mark.parametrize(
    "parameters", [{"unknown": "1"}, {"sort": "id"}, {"sort": "--name"}, {"sort": ""}, {"with_total": "perhaps"}, {"q": ""}, {"q": "x" * 201}, {"q": "a\0b"}]
)
async def test_a_parameter_that_is_not_right_is_refused(client: AsyncClient, factory: Factory, collection: Collection, parameters: dict[str, str]) -> None:
    person = await factory.person()
    refused(await client.get(collection.path, headers=person.headers, params=parameters), 422, "validation_error")


@pytest.mark.parametrize(("collection", "sort"), SORTS, ids=name_of)
async def test_a_list_is_in_the_order_that_was_asked_for(client: AsyncClient, factory: Factory, collection: Collection, sort: str) -> None:
    person = await a_person_with(factory, collection, 50, distinct=20)
    items = (await listed(client, person, collection, sort=sort, page_size=100))["items"]
    assert len(items) >= 50
    column = sort.lstrip("-")
    keys = [(item[column], UUID(item["id"])) for item in items]
    assert all((first > second) if sort.startswith("-") else (first < second) for first, second in pairwise(keys))


@each_collection
async def test_the_newest_come_first_by_default(client: AsyncClient, factory: Factory, collection: Collection) -> None:
    person = await a_person_with(factory, collection, 10, distinct=4)
    assert await listed(client, person, collection) == await listed(client, person, collection, sort="-created_at")


@each_collection
async def test_the_total_is_counted_only_where_it_is_asked_for(client: AsyncClient, factory: Factory, collection: Collection) -> None:
    person = await a_person_with(factory, collection, 25)
    number = len(await collection.identifiers(factory, person.tenant))
    plain = await listed(client, person, collection)
    assert not {"total", "page"} & plain.keys()
    walking = await listed(client, person, collection, cursor=plain["next_cursor"])
    assert not {"total", "page"} & walking.keys()
    with_total = await listed(client, person, collection, with_total="true", cursor=plain["next_cursor"])
    assert (with_total["total"], "page" in with_total) == (number, False)
    paged = await listed(client, person, collection, page=2)
    assert (paged["total"], paged["page"]) == (number, 2)


@each_collection
async def test_the_total_counts_what_the_filters_let_through(client: AsyncClient, factory: Factory, collection: Collection) -> None:
    person = await a_person_with(factory, collection, 30, distinct=3)
    answer = await listed(client, person, collection, q="row 1", page=1, page_size=1)
    assert answer["total"] == len(await found(client, person, collection, q="row 1", page_size=100)) > 0


@each_collection
async def test_pages_by_number_are_the_list_in_pieces(client: AsyncClient, factory: Factory, collection: Collection) -> None:
    person = await a_person_with(factory, collection, 25, distinct=5)
    whole = (await listed(client, person, collection, page_size=100))["items"]
    pages = [await listed(client, person, collection, page=number, page_size=7) for number in range(1, 6)]
    assert [item for page in pages for item in page["items"]] == whole
    assert [page["has_more"] for page in pages] == [7 * number < len(whole) for number in range(1, 6)]


@each_collection
async def test_a_walk_goes_on_by_cursor_from_a_page_by_number(client: AsyncClient, factory: Factory, collection: Collection) -> None:
    person = await a_person_with(factory, collection, 25, distinct=5)
    first = await listed(client, person, collection, page=1, page_size=7)
    on = await listed(client, person, collection, cursor=first["next_cursor"], page_size=7)
    assert on["items"] == (await listed(client, person, collection, page=2, page_size=7))["items"]


@each_collection
@pytest.mark.parametrize(("page", "page_size"), [(101, 100), (10_001, 1), (501, 20), (10**30, 1)])
async def test_pages_end_at_ten_thousand_rows(client: AsyncClient, factory: Factory, collection: Collection, page: int, page_size: int) -> None:
    person = await factory.person()
    response = await client.get(collection.path, headers=person.headers, params={"page": page, "page_size": page_size})
    assert "cursor" in refused(response, 422, "page_too_deep")["detail"]


@each_collection
@pytest.mark.parametrize(("page", "page_size"), [(100, 100), (10_000, 1), (500, 20)])
async def test_the_deepest_page_is_answered(client: AsyncClient, factory: Factory, collection: Collection, page: int, page_size: int) -> None:
    person = await factory.person()
    assert (await listed(client, person, collection, page=page, page_size=page_size))["items"] == []


SEARCHES = [
    ("Website relaunch", "site", True),
    ("Website relaunch", "WEBSITE RE", True),
    ("ÄRGER MIT ÜBERGRÖSSE", "ärger mit über", True),
    ("100 % done", "%", True),
    ("100 done", "%", False),
    ("a_b", "a_b", True),
    ("axb", "a_b", False),
    ("C:\\temp", "c:\\T", True),
    ("C:temp", ":\\t", False),
    ("a\\%b", "\\%", True),
    ("a%b", "\\%", False),
    ("it's", "'s", True),
    ("Website", "site ", False),
]


@pytest.mark.parametrize(("text", "q", "matches"), SEARCHES)
async def test_a_search_finds_the_text_itself_in_any_case(client: AsyncClient, factory: Factory, text: str, q: str, matches: bool) -> None:
    person = await factory.person()
    project = await factory.project(person.tenant, name=text)
    described = await factory.project(person.tenant, description=text)
    user = await factory.user(person.tenant, full_name=text)
    resource = await factory.resource(project, name=text)
    invitation, _ = await factory.invitation(person.tenant, email=f"{text}@example.com")
    found_by_q = [await found(client, person, collection, q=q) for collection in COLLECTIONS]
    assert found_by_q == ([{str(project.id), str(described.id)}, {str(user.id)}, {str(resource.id)}, {str(invitation.id)}] if matches else [set()] * 4)


async def test_users_are_searched_by_address(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    user = await factory.user(person.tenant, email="ada_lovelace@example.org")
    assert await found(client, person, USERS, q="A_LOVE") == {str(user.id)}
    assert await found(client, person, USERS, q="a-love") == set()


async def test_projects_are_filtered_by_status_and_owner(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    made = {
        (status, owner): str((await factory.project(person.tenant, status=status, owner_id=owner)).id)
        for status in ("active", "on_hold", "completed", "archived")
        for owner in (person.user.id, None)
    }
    for status in ("active", "on_hold", "completed", "archived"):
        assert await found(client, person, PROJECTS, status=status) == {made[status, person.user.id], made[status, None]}
        assert await found(client, person, PROJECTS, status=status, owner_id=str(person.user.id)) == {made[status, person.user.id]}
    assert await found(client, person, PROJECTS, owner_id=str(person.user.id)) == {made[key] for key in made if key[1]}


async def test_users_are_filtered_by_role_and_activity(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person(role=Role.ADMIN)
    on, off = await factory.user(person.tenant, Role.MEMBER), await factory.user(person.tenant, Role.MEMBER, is_active=False)
    viewer = await factory.user(person.tenant, Role.VIEWER)
    assert await found(client, person, USERS, role="member") == {str(on.id), str(off.id)}
    assert await found(client, person, USERS, is_active="false") == {str(off.id)}
    assert await found(client, person, USERS, is_active="true") == {str(on.id), str(viewer.id), str(person.user.id)}
    assert await found(client, person, USERS, role="member", is_active="true") == {str(on.id)}


async def test_resources_are_filtered_by_project_and_type(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    first, second = await factory.project(person.tenant), await factory.project(person.tenant)
    note, page, other = await factory.resource(first, type="note"), await factory.resource(first, type="page"), await factory.resource(second, type="note")
    assert await found(client, person, RESOURCES, project_id=str(first.id)) == {str(note.id), str(page.id)}
    assert await found(client, person, RESOURCES, type="note") == {str(note.id), str(other.id)}
    assert await found(client, person, RESOURCES, type="note", project_id=str(first.id)) == {str(note.id)}


@pytest.mark.parametrize(
    ("collection", "parameters"),
    [
        *((PROJECTS, {name: value}) for name, value in (("status", "open"), ("status", ""), ("owner_id", "me"), ("include_deleted", "7"))),
        *((USERS, {name: value}) for name, value in (("role", "owner"), ("role", "Admin"), ("is_active", "maybe"))),
        *((INVITATIONS, {name: value}) for name, value in (("role", "owner"), ("role", ""), ("is_active", "true"))),
        *((RESOURCES, {name: value}) for name, value in (("project_id", "1"), ("type", "two words"), ("type", "a\0"), ("type", "x" * 51))),
    ],
    ids=name_of,
)
async def test_a_filter_that_is_not_right_is_refused(client: AsyncClient, factory: Factory, collection: Collection, parameters: dict[str, str]) -> None:
    person = await factory.person()
    refused(await client.get(collection.path, headers=person.headers, params=parameters), 422, "validation_error")


async def test_a_filter_by_another_tenant_s_object_finds_nothing(client: AsyncClient, factory: Factory) -> None:
    person, other = await factory.person(), await factory.person()
    project = await factory.project(other.tenant, owner_id=other.user.id)
    await factory.resource(project)
    assert await found(client, person, PROJECTS, owner_id=str(other.user.id)) == set()
    assert await found(client, person, RESOURCES, project_id=str(project.id)) == set()
