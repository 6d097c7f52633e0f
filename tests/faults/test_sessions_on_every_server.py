"""Sessions on several real API processes: one of many refreshes at once succeeds, and what one process ends has ended on all with the next request."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from httpx import AsyncClient

from app.config import Settings
from app.models import Role
from tests.api.answers import accepted, refused
from tests.api.sessions import ME, assert_dead, headers_with, let_pass, refresh, row_of, successor
from tests.factories import Factory, Person
from tests.faults.support import FRESH, PATIENCE, ServerProcess, Valkey, environment_of, eventually, run_cli, server_process, valkey

SESSIONS, TIMES, GROUPS_AT_ONCE = 200, 10, 4


class Servers(NamedTuple):
    """Two API processes, a client of each, and what they run on."""

    processes: tuple[ServerProcess, ServerProcess]
    here: AsyncClient
    there: AsyncClient
    redis: Valkey
    environment: dict[str, str]
    folder: Path

    @property
    def clients(self) -> tuple[AsyncClient, AsyncClient]:
        return self.here, self.there


@pytest.fixture(scope="module")
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="module")
async def servers(settings: Settings, own_valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Servers]:
    folder = tmp_path_factory.mktemp("servers")
    environment = environment_of(settings, redis_url=own_valkey.url)
    with server_process(folder / "one", environment) as one, server_process(folder / "other", environment) as other:
        async with (
            AsyncClient(base_url=one.url, timeout=PATIENCE, limits=FRESH) as here,
            AsyncClient(base_url=other.url, timeout=PATIENCE, limits=FRESH) as there,
        ):
            yield Servers((one, other), here, there, own_valkey, environment, folder)


async def warm(client: AsyncClient, person: Person) -> None:
    """Have a process know the person by heart."""
    for _ in range(3):
        accepted(await client.get(ME, headers=person.headers))


# ─── Many at once ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_200_tokens_each_used_ten_times_at_once_have_exactly_200_successors(servers: Servers, factory: Factory) -> None:
    first = await factory.person()
    people = [first, *[await factory.sign_in(first.tenant, first.user) for _ in range(SESSIONS - 1)]]
    few = asyncio.Semaphore(GROUPS_AT_ONCE)

    async def used_at_once(person: Person) -> set[str]:
        async with few:
            answers = await asyncio.gather(*(refresh(servers.clients[number % 2], person.refresh_token) for number in range(TIMES)))
        # Those that came too late were given working tokens too.
        if person is first:
            for answer in answers:
                accepted(await servers.here.get(ME, headers=headers_with(accepted(answer)["access_token"], person)))
        return {accepted(answer)["refresh_token"] for answer in answers}

    successors = await asyncio.gather(*(used_at_once(person) for person in people))
    assert [len(group) for group in successors] == [1] * SESSIONS
    assert len(set.union(*successors)) == SESSIONS
    counts = await factory.run("SELECT refresh_count, count(*) FROM sessions WHERE user_id = :id GROUP BY 1", id=first.user.id)
    assert counts == [(1, SESSIONS)]


async def test_a_session_that_is_left_while_it_is_refreshed_is_dead(servers: Servers, factory: Factory) -> None:
    for number in range(24):
        person = await factory.person()
        here, there = servers.clients if number % 2 else servers.clients[::-1]
        path = "/api/v1/auth/logout" if number % 4 < 2 else "/api/v1/auth/logout-all"
        leaving, *refreshing = await asyncio.gather(
            here.post(path, headers=person.headers),
            *(refresh(client, person.refresh_token) for client in (here, there, there)),
        )
        assert leaving.status_code == 204
        given = [answer.json() for answer in refreshing if answer.status_code == 200]
        assert {answer.json()["code"] for answer in refreshing if answer.status_code != 200} <= {"token_revoked"}
        await assert_dead(there, factory, person, person.refresh_token, *{body["refresh_token"] for body in given})
        for body in given:
            for client in servers.clients:
                refused(await client.get(ME, headers=headers_with(body["access_token"], person)), 401, "token_revoked")


# ─── Felt by every process ───────────────────────────────────────────────────────────────────────────────────────────

Change = Callable[[Servers, Factory, Person, Person], Awaitable[object]]


async def log_out(servers: Servers, _: Factory, __: Person, person: Person) -> None:
    accepted(await servers.here.post("/api/v1/auth/logout", headers=person.headers), 204)


async def log_out_everywhere(servers: Servers, factory: Factory, _: Person, person: Person) -> None:
    other = await factory.sign_in(person.tenant, person.user)
    accepted(await servers.here.post("/api/v1/auth/logout-all", headers=other.headers), 204)


async def end_the_session(servers: Servers, factory: Factory, _: Person, person: Person) -> None:
    other = await factory.sign_in(person.tenant, person.user)
    accepted(await servers.here.delete(f"/api/v1/auth/sessions/{person.session_id}", headers=other.headers), 204)


async def use_a_token_twice(servers: Servers, factory: Factory, _: Person, person: Person) -> None:
    await successor(servers.here, person.refresh_token)
    await let_pass(factory, person.session_id, 11)
    refused(await refresh(servers.here, person.refresh_token), 401, "refresh_token_reused")


async def deactivate(servers: Servers, _: Factory, admin: Person, person: Person) -> None:
    accepted(await servers.here.patch(f"/api/v1/users/{person.user.id}", headers=admin.headers, json={"is_active": False}))


async def delete(servers: Servers, _: Factory, admin: Person, person: Person) -> None:
    accepted(await servers.here.delete(f"/api/v1/users/{person.user.id}", headers=admin.headers), 204)


ENDINGS: tuple[Change, ...] = (log_out, log_out_everywhere, end_the_session, use_a_token_twice, deactivate, delete)


@pytest.mark.parametrize("redis_is", ["there", "flushed", "away"])
@pytest.mark.parametrize("end", ENDINGS)
async def test_what_one_process_ends_has_ended_on_every_other_with_the_next_request(servers: Servers, factory: Factory, end: Change, redis_is: str) -> None:
    admin = await factory.person()
    person, bystander = await factory.person(admin.tenant, Role.MEMBER), await factory.person(admin.tenant, Role.MEMBER)
    for who in (person, bystander):
        await warm(servers.there, who)
    if redis_is == "away":
        servers.redis.stop()
    try:
        await end(servers, factory, admin, person)
        if redis_is == "flushed":
            await servers.redis.run("FLUSHALL")
        refused(await servers.there.get(ME, headers=person.headers), 401, "token_revoked")
    finally:
        if redis_is == "away":
            servers.redis.start()
    refused(await refresh(servers.there, person.refresh_token), 401, "token_revoked")
    accepted(await servers.there.get(ME, headers=bystander.headers))
    if redis_is == "away":
        # It stays so when Redis is back, with nothing in it.
        await all_are("healthy", servers)
    for client in servers.clients:
        refused(await client.get(ME, headers=person.headers), 401, "token_revoked")


async def all_are(status: str, servers: Servers) -> None:
    async def told() -> bool:
        return [(await client.get("/health")).json()["status"] for client in servers.clients] == [status] * 2

    await eventually(told)


@pytest.mark.parametrize("redis_is", ["there", "away"])
async def test_a_role_change_counts_on_every_other_process_with_the_next_request(servers: Servers, factory: Factory, redis_is: str) -> None:
    admin = await factory.person()
    person = await factory.person(admin.tenant, Role.MEMBER)
    await warm(servers.there, person)
    if redis_is == "away":
        servers.redis.stop()
    try:
        accepted(await servers.here.patch(f"/api/v1/users/{person.user.id}", headers=admin.headers, json={"role": "viewer"}))
        refused(await servers.there.post("/api/v1/projects", headers=person.headers, json={"name": "Not any more"}), 403, "forbidden")
    finally:
        if redis_is == "away":
            servers.redis.start()
    assert accepted(await refresh(servers.there, person.refresh_token))["user"]["role"] == "viewer"
    refused(await servers.there.post("/api/v1/projects", headers=person.headers, json={"name": "Not any more"}), 403, "forbidden")


async def test_a_suspension_ends_refreshing_and_all_else_on_every_process_until_it_is_taken_back(servers: Servers, factory: Factory) -> None:
    person = await factory.person()
    for client in servers.clients:
        await warm(client, person)
    run_cli(servers.folder / "cli", servers.environment, "tenants", "suspend", person.tenant.slug)
    for client in servers.clients:
        refused(await client.get(ME, headers=person.headers), 403, "tenant_inactive")
        refused(await refresh(client, person.refresh_token), 403, "tenant_inactive")
    assert (await row_of(factory, person.session_id)).refresh_count == 0
    run_cli(servers.folder / "cli", servers.environment, "tenants", "activate", person.tenant.slug)
    for client in servers.clients:
        accepted(await client.get(ME, headers=person.headers))
    accepted(await refresh(servers.there, person.refresh_token))


# ─── What the log says ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_reuse_is_in_the_log_with_its_session_and_without_a_token(servers: Servers, factory: Factory) -> None:
    person = await factory.person()
    second = await successor(servers.here, person.refresh_token)
    await let_pass(factory, person.session_id, 11)
    await refresh(servers.here, person.refresh_token)
    process = servers.processes[0]

    async def written() -> bool:
        return any(line["event"] == "refresh_token_reused" and line["session_id"] == str(person.session_id) for line in process.lines)

    await eventually(written)
    assert not [token for token in (person.refresh_token, second) if token in process.output]
