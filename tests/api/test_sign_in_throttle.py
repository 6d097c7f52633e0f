"""Wrong passwords slow an account down, known or not, and nobody can lock another out of live sessions by it."""

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest
from httpx import AsyncClient, Response

from app.config import Settings
from app.core.throttle import key_of
from app.services.container import Services
from app.services.sign_in import account
from tests.api.answers import accepted, refused
from tests.factories import PASSWORD, Factory, Person
from tests.faults.support import changed, eventually, running, valkey

LOGIN = "/api/v1/auth/login"
WRONG = "a wrong passphrase"


def credentials(person: Person, **changes: str) -> dict[str, str]:
    return {"email": person.user.email, "password": PASSWORD, "tenant_slug": person.tenant.slug, **changes}


async def guess(client: AsyncClient, body: dict[str, str], times: int = 5) -> None:
    for _ in range(times):
        refused(await client.post(LOGIN, json={**body, "password": WRONG}), 401, "invalid_credentials")


async def end_pause(services: Services, body: dict[str, str], counted: int = 5) -> None:
    """Have the account's pause be over, as if the time had passed."""
    await services.redis.client.set(key_of(account(body["tenant_slug"], body["email"])), f"{counted}:1", px=60_000)


def seen(response: Response) -> tuple[int, bytes, list[str]]:
    """Return what a client can tell answers apart by."""
    return response.status_code, response.content, sorted(response.headers)


async def test_after_five_wrong_passwords_the_right_one_has_to_wait_too(client: AsyncClient, factory: Factory) -> None:
    body = credentials(await factory.person())
    await guess(client, body)
    for password in (PASSWORD, WRONG):
        answer = await client.post(LOGIN, json={**body, "password": password})
        refused(answer, 429, "sign_in_throttled")
        assert 55 <= int(answer.headers["Retry-After"]) <= 60


async def test_after_the_pause_the_right_password_signs_in_and_all_is_forgotten(client: AsyncClient, factory: Factory, services: Services) -> None:
    body = credentials(await factory.person())
    await guess(client, body)
    await end_pause(services, body)
    accepted(await client.post(LOGIN, json=body))
    await guess(client, body, times=4)
    accepted(await client.post(LOGIN, json=body))


async def test_pauses_grow(client: AsyncClient, factory: Factory, services: Services) -> None:
    body = credentials(await factory.person())
    waits = []
    for counted in (5, 6, 7, 8, 9, 10):
        await end_pause(services, body, counted)
        refused(await client.post(LOGIN, json={**body, "password": WRONG}), 401, "invalid_credentials")
        waits.append(int((await client.post(LOGIN, json=body)).headers["Retry-After"]))
    assert [round(wait / 60) for wait in waits] == [2, 4, 8, 15, 15, 15]


async def test_accounts_that_do_not_exist_are_slowed_down_alike(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    accounts = (
        credentials(person),
        credentials(await factory.person(person.tenant, password_hash=None)),
        credentials(await factory.person(person.tenant, is_active=False)),
        credentials(await factory.person(await factory.tenant(is_active=False))),
        credentials(person, email=f"{uuid4().hex}@example.com"),
        credentials(person, email=f"no address {uuid4().hex}"),
        credentials(person, tenant_slug=f"none-{uuid4().hex[:12]}"),
    )
    answers = [[seen(await client.post(LOGIN, json={**body, "password": WRONG}, headers={"X-Request-ID": "the-same"})) for _ in range(7)] for body in accounts]
    assert answers == [answers[0]] * len(accounts)
    assert [status for status, *_ in answers[0]] == [401] * 5 + [429] * 2


async def test_an_account_counts_once_however_its_address_and_slug_are_written(client: AsyncClient, factory: Factory) -> None:
    body = credentials(await factory.person())
    written: tuple[dict[str, str], ...] = (
        {},
        {"email": body["email"].upper()},
        {"email": f" {body['email']} "},
        {"tenant_slug": body["tenant_slug"].upper()},
        {"tenant_slug": f" {body['tenant_slug']}"},
    )
    for changes in written:
        await guess(client, {**body, **changes}, times=1)
    refused(await client.post(LOGIN, json=body), 429, "sign_in_throttled")


async def test_other_accounts_are_not_slowed_down(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    await guess(client, credentials(person))
    namesake = await factory.person(email=person.user.email)
    for other in (await factory.person(person.tenant), namesake):
        accepted(await client.post(LOGIN, json=credentials(other)))


async def test_nobody_is_locked_out_of_a_live_session(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    await guess(client, credentials(person))
    refused(await client.post(LOGIN, json=credentials(person)), 429, "sign_in_throttled")
    accepted(await client.get("/api/v1/auth/me", headers=person.headers))
    accepted(await client.post("/api/v1/projects", headers=person.headers, json={"name": "Still at work"}), 201)
    accepted(await client.post("/api/v1/auth/refresh", json={"refresh_token": person.refresh_token}))
    body = {"current_password": PASSWORD, "new_password": "another long passphrase"}
    accepted(await client.post("/api/v1/auth/password/change", headers=person.headers, json=body), 204)


async def test_many_guesses_at_once_after_a_pause_are_one_guess(client: AsyncClient, factory: Factory, services: Services) -> None:
    body = credentials(await factory.person())
    await end_pause(services, body)
    answers = await asyncio.gather(*(client.post(LOGIN, json={**body, "password": WRONG}) for _ in range(30)))
    assert sorted(answer.status_code for answer in answers) == [401] + [429] * 29


async def test_many_guesses_at_once_are_no_more_than_are_hashed_at_once(settings: Settings, factory: Factory) -> None:
    """The first of many fill the hashing threads and the places before them; the rest is told to come back, and then has to wait."""
    body = {**credentials(await factory.person()), "password": WRONG}
    async with running(changed(settings, password_hash_rounds=9)) as (app, client):
        most = app.state.services.passwords._most
        answers = await asyncio.gather(*(client.post(LOGIN, json=body) for _ in range(200)))
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) <= {401, 429, 503}
        # Each that is done makes room for another, until five are counted; a busy machine may be slow to count.
        assert statuses.count(401) <= 2 * most + 5
        refused(await client.post(LOGIN, json=body), 429, "sign_in_throttled")


async def test_a_burst_of_sign_ins_is_answered_or_told_to_come_back_and_then_all_is_well(settings: Settings, factory: Factory) -> None:
    people = [await factory.person() for _ in range(20)]
    async with running(settings) as (app, client):
        hasher = app.state.services.passwords
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, hasher._pending)
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        answers = await asyncio.gather(*(client.post(LOGIN, json=credentials(people[number % 20])) for number in range(200)))
        watching.cancel()
        assert {answer.status_code for answer in answers} <= {200, 429, 503}
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers if answer.status_code != 200)
        assert most <= hasher._most
        assert hasher._pending == 0
        for person in people[:3]:
            accepted(await client.post(LOGIN, json=credentials(person)))


async def test_without_redis_wrong_passwords_are_counted_all_the_same(settings: Settings, factory: Factory, tmp_path: Path) -> None:
    body = credentials(await factory.person())
    with valkey(tmp_path) as server:
        async with running(changed(settings, redis_url=server.url, redis_timeout=0.5)) as (app, client):
            await guess(client, body, times=2)
            server.stop()
            await guess(client, body)
            refused(await client.post(LOGIN, json=body), 429, "sign_in_throttled")
            server.start()

            async def back() -> bool:
                return not app.state.services.redis.is_away

            await eventually(back)
            await guess(client, body, times=1)


@pytest.mark.parametrize("otp", ["123456", "", 123456, []])
async def test_a_second_factor_that_is_sent_is_not_overlooked(client: AsyncClient, factory: Factory, otp: object) -> None:
    """There is none yet. A client that sends `null` is served."""
    body = credentials(await factory.person())
    refused(await client.post(LOGIN, json={**body, "otp": otp}), 422, "validation_error")
    accepted(await client.post(LOGIN, json={**body, "otp": None}))
