"""The caller's sessions: listed, ended one by one, and all at once."""

import asyncio
from uuid import UUID, uuid4

import pytest
from httpx import AsyncClient

from app.models import Role
from tests.api.answers import accepted, refused
from tests.api.sessions import ME, assert_dead, headers_with, refresh, successor
from tests.factories import PASSWORD, Factory, Person

SESSIONS = "/api/v1/auth/sessions"
LOGOUT, LOGOUT_ALL = "/api/v1/auth/logout", "/api/v1/auth/logout-all"

each_role = pytest.mark.parametrize("role", list(Role))


async def listed(client: AsyncClient, person: Person) -> list[UUID]:
    return [UUID(item["id"]) for item in accepted(await client.get(SESSIONS, headers=person.headers))["items"]]


async def sessions_of(factory: Factory, number: int, role: Role = Role.MEMBER) -> list[Person]:
    """Return one person, signed in so many times; the last one newest."""
    first = await factory.person(role=role)
    return [first, *[await factory.sign_in(first.tenant, first.user) for _ in range(number - 1)]]


# ─── The list ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_session_shows_its_device_its_address_and_its_last_use(client: AsyncClient, factory: Factory, address: str) -> None:
    person = await factory.person(role=Role.VIEWER)
    credentials = {"email": person.user.email, "password": PASSWORD, "tenant_slug": person.tenant.slug}
    accepted(await client.post("/api/v1/auth/login", json=credentials, headers={"User-Agent": "Browser/1.0"}))
    newest, own = accepted(await client.get(SESSIONS, headers=person.headers))["items"]
    assert newest.keys() == {"id", "created_at", "last_used_at", "ip_address", "user_agent", "current"}
    assert (newest["ip_address"], newest["user_agent"]) == (address, "Browser/1.0")
    assert newest["created_at"] == newest["last_used_at"]
    assert newest["created_at"].endswith("Z")
    assert (newest["current"], own["current"], own["id"]) == (False, True, str(person.session_id))


async def test_the_session_that_was_used_last_comes_first(client: AsyncClient, factory: Factory) -> None:
    first, second, third = await sessions_of(factory, 3)
    assert await listed(client, first) == [third.session_id, second.session_id, first.session_id]
    await successor(client, second.refresh_token)
    assert await listed(client, first) == [second.session_id, third.session_id, first.session_id]


async def test_only_live_sessions_of_the_caller_are_listed(client: AsyncClient, factory: Factory) -> None:
    person, ended, expired = await sessions_of(factory, 3)
    await factory.person(person.tenant)
    await factory.run("UPDATE sessions SET revoked_at = now() WHERE id = :id", id=ended.session_id)
    await factory.run("UPDATE sessions SET expires_at = now() WHERE id = :id", id=expired.session_id)
    assert await listed(client, person) == [person.session_id]


async def test_of_many_sessions_the_hundred_that_were_used_last_are_listed(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    await factory.run(
        "INSERT INTO sessions (tenant_id, id, user_id, refresh_token_hash, expires_at, last_used_at)"
        " SELECT :tenant, gen_random_uuid(), :user, sha256(n::text::bytea), now() + interval '1 day', now() - n * interval '1 hour'"
        " FROM generate_series(1, 150) n",
        tenant=person.tenant.id,
        user=person.user.id,
    )
    items = accepted(await client.get(SESSIONS, headers=person.headers))["items"]
    assert len(items) == 100
    assert items[0]["current"]
    times = [item["last_used_at"] for item in items]
    assert times == sorted(times, reverse=True)


# ─── The end of one ──────────────────────────────────────────────────────────────────────────────────────────────────


@each_role
async def test_a_session_that_is_ended_is_dead_and_the_others_live(client: AsyncClient, factory: Factory, role: Role) -> None:
    person, lost = await sessions_of(factory, 2, role)
    accepted(await client.get(ME, headers=lost.headers))
    accepted(await client.delete(f"{SESSIONS}/{lost.session_id}", headers=person.headers), 204)
    await assert_dead(client, factory, lost, lost.refresh_token)
    assert await listed(client, person) == [person.session_id]
    refused(await client.delete(f"{SESSIONS}/{lost.session_id}", headers=person.headers), 404, "not_found")


async def test_the_own_session_can_be_ended_too(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    accepted(await client.delete(f"{SESSIONS}/{person.session_id}", headers=person.headers), 204)
    await assert_dead(client, factory, person, person.refresh_token)


async def test_nobody_ends_a_session_of_somebody_else(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    colleague, stranger = await factory.person(admin.tenant), await factory.person()
    unknown = refused(await client.delete(f"{SESSIONS}/{uuid4()}", headers=admin.headers), 404, "not_found")
    for other in (colleague, stranger):
        problem = refused(await client.delete(f"{SESSIONS}/{other.session_id}", headers=admin.headers), 404, "not_found")
        assert problem["detail"] == unknown["detail"]
        accepted(await client.get(ME, headers=other.headers))
        accepted(await refresh(client, other.refresh_token))


@pytest.mark.parametrize("column", ["revoked_at", "expires_at"])
async def test_a_session_that_is_over_is_not_there(client: AsyncClient, factory: Factory, column: str) -> None:
    person, over = await sessions_of(factory, 2)
    await factory.run(f"UPDATE sessions SET {column} = now() WHERE id = :id", id=over.session_id)
    refused(await client.delete(f"{SESSIONS}/{over.session_id}", headers=person.headers), 404, "not_found")


# ─── Logging out ─────────────────────────────────────────────────────────────────────────────────────────────────────


@each_role
async def test_logging_out_ends_this_session_alone(client: AsyncClient, factory: Factory, role: Role) -> None:
    person, other = await sessions_of(factory, 2, role)
    renewed = accepted(await refresh(client, person.refresh_token))
    answer = await client.post(LOGOUT, headers=person.headers)
    assert (answer.status_code, answer.content) == (204, b"")
    # Every token that the session ever had.
    await assert_dead(client, factory, person, person.refresh_token, renewed["refresh_token"])
    refused(await client.get(ME, headers=headers_with(renewed["access_token"], person)), 401, "token_revoked")
    refused(await client.post(LOGOUT, headers=person.headers), 401, "token_revoked")
    accepted(await client.get(ME, headers=other.headers))
    accepted(await refresh(client, other.refresh_token))


@each_role
async def test_logging_out_everywhere_ends_every_session_of_the_caller_and_nobody_else_s(client: AsyncClient, factory: Factory, role: Role) -> None:
    people = await sessions_of(factory, 3, role)
    colleague = await factory.person(people[0].tenant)
    accepted(await client.post(LOGOUT_ALL, headers=people[0].headers), 204)
    for person in people:
        await assert_dead(client, factory, person, person.refresh_token)
    accepted(await client.get(ME, headers=colleague.headers))
    credentials = {"email": people[0].user.email, "password": PASSWORD, "tenant_slug": people[0].tenant.slug}
    accepted(await client.post("/api/v1/auth/login", json=credentials))


# ─── Too many ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def sign_in(client: AsyncClient, person: Person) -> None:
    credentials = {"email": person.user.email, "password": PASSWORD, "tenant_slug": person.tenant.slug}
    accepted(await client.post("/api/v1/auth/login", json=credentials))


@pytest.fixture
def _three_at_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.sessions.MOST_SESSIONS", 3)


@pytest.mark.usefixtures("_three_at_the_most")
async def test_one_session_too_many_ends_the_one_that_was_used_least_lately(client: AsyncClient, factory: Factory) -> None:
    """Without a bound, whoever signs in often enough can be neither deactivated nor deleted: to end all of it takes longer than a statement may."""
    first, second, third = await sessions_of(factory, 3)
    other = await factory.person(first.tenant)
    await successor(client, first.refresh_token)
    # So that the process remembers it.
    accepted(await client.get(ME, headers=second.headers))
    await sign_in(client, first)
    refused(await client.get(ME, headers=second.headers), 401, "token_revoked")
    refused(await refresh(client, second.refresh_token), 401, "token_revoked")
    for person in (first, third, other):
        accepted(await client.get(ME, headers=person.headers))
    assert await factory.run("SELECT count(*) FROM sessions WHERE user_id = :id", id=first.user.id) == [(3,)]


@pytest.mark.usefixtures("_three_at_the_most")
async def test_sessions_that_have_ended_make_room_first(client: AsyncClient, factory: Factory) -> None:
    first, second, newest = await sessions_of(factory, 3)
    await factory.run("UPDATE sessions SET revoked_at = now() WHERE id = :id", id=newest.session_id)
    await sign_in(client, first)
    assert set(await listed(client, first)) >= {first.session_id, second.session_id}
    assert await factory.run("SELECT count(*) FROM sessions WHERE id = :id", id=newest.session_id) == [(0,)]


@pytest.mark.usefixtures("_three_at_the_most")
async def test_of_many_sign_ins_at_once_no_more_sessions_are_left(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    await asyncio.gather(*(sign_in(client, person) for _ in range(8)))
    assert await factory.run("SELECT count(*) FROM sessions WHERE user_id = :id", id=person.user.id) == [(3,)]
