"""Nobody keeps an account's owner out by guessing: guesses from networks that the account is known at are counted apart from those of strangers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient

from app.core.networks import network_of
from app.core.throttle import key_of
from app.models import TokenPurpose
from app.services.container import Services
from app.services.sign_in import account
from tests.api.answers import accepted, refused
from tests.clients import client_of, fresh_address
from tests.factories import PASSWORD, Factory, Person
from tests.faults.support import eventually

LOGIN, RESET = "/api/v1/auth/login", "/api/v1/auth/password/reset"
WRONG, ANOTHER = "a wrong passphrase", "another long passphrase"

Besieged = Callable[[Person], AbstractAsyncContextManager[None]]


async def sign_in(client: AsyncClient, person: Person, password: str = PASSWORD) -> Any:
    return await client.post(LOGIN, json={"email": person.user.email, "password": password, "tenant_slug": person.tenant.slug})


async def lock(services: Services, person: Person) -> None:
    """Have strangers be in a pause that does not end within the test."""
    await services.redis.client.set(
        key_of(account(person.tenant.slug, person.user.email)), f"9:{int(datetime.now(UTC).timestamp() * 1000) + 600_000}", px=600_000
    )


async def known_at(factory: Factory, address: str, **values: Any) -> Person:
    """Make a person who has a session that was used at an address."""
    person = await factory.person(**values)
    await factory.run("UPDATE sessions SET ip_address = :address WHERE id = :id", address=address, id=person.session_id)
    return person


@pytest.fixture
def besieged(app: FastAPI, services: Services) -> Besieged:
    """Several clients guess at a person's password the whole time, each from a network of its own, and every pause is over at once."""

    @asynccontextmanager
    async def siege(person: Person) -> AsyncIterator[None]:
        statuses: list[int] = []
        key = key_of(account(person.tenant.slug, person.user.email))

        async def guess() -> None:
            async with client_of(app) as stranger:
                while True:
                    statuses.append((await sign_in(stranger, person, WRONG)).status_code)

        async def hurry() -> None:
            while True:
                if statuses.count(429) % 7 == 0:
                    await services.redis.client.set(key, "9:1", px=60_000)
                await asyncio.sleep(0.001)

        async def until(number: int) -> None:
            async def made() -> bool:
                assert set(statuses) <= {401, 429}
                return len(statuses) >= number

            await eventually(made)

        guessing = [asyncio.create_task(guess()) for _ in range(4)]
        hurrying = asyncio.create_task(hurry())
        try:
            await until(20)
            yield
            # They have never stopped.
            await until(len(statuses) + 20)
            assert set(statuses) == {401, 429}
        finally:
            for task in (*guessing, hurrying):
                task.cancel()
            await asyncio.wait((*guessing, hurrying))

    return siege


async def test_guesses_of_strangers_keep_nobody_out_where_they_are_known(client: AsyncClient, address: str, factory: Factory, besieged: Besieged) -> None:
    person = await known_at(factory, address)
    async with besieged(person):
        for _ in range(20):
            accepted(await sign_in(client, person))


async def test_a_reset_lets_its_owner_in_at_once_while_strangers_go_on(client: AsyncClient, factory: Factory, services: Services, besieged: Besieged) -> None:
    person = await factory.person()
    async with besieged(person):
        token = await factory.mailed_token(person.user, TokenPurpose.RESET_PASSWORD)
        accepted(await client.post(RESET, json={"token": token, "password": ANOTHER}), 204)
        for _ in range(20):
            accepted(await sign_in(client, person, ANOTHER))


async def test_strangers_wait_although_the_owner_signs_in(app: FastAPI, client: AsyncClient, address: str, factory: Factory, services: Services) -> None:
    person = await known_at(factory, address)
    await lock(services, person)
    accepted(await sign_in(client, person))
    async with client_of(app) as stranger:
        refused(await sign_in(stranger, person), 429, "sign_in_throttled")


async def test_another_address_of_the_same_network_is_known_too(app: FastAPI, factory: Factory, services: Services) -> None:
    address = fresh_address()
    person = await known_at(factory, address)
    await lock(services, person)
    async with client_of(app, f"{address}:2") as neighbour:
        accepted(await sign_in(neighbour, person))


async def test_wrong_passwords_from_a_known_network_slow_it_down_alone(app: FastAPI, client: AsyncClient, address: str, factory: Factory) -> None:
    elsewhere = fresh_address()
    person = await known_at(factory, address)
    other = await factory.sign_in(person.tenant, person.user)
    await factory.run("UPDATE sessions SET ip_address = :address WHERE id = :id", address=elsewhere, id=other.session_id)
    for _ in range(5):
        refused(await sign_in(client, person, WRONG), 401, "invalid_credentials")
    refused(await sign_in(client, person), 429, "sign_in_throttled")
    for place in (elsewhere, fresh_address()):
        async with client_of(app, place) as theirs:
            accepted(await sign_in(theirs, person))


async def test_a_reset_forgets_the_wrong_passwords_of_whoever_made_it(client: AsyncClient, address: str, factory: Factory) -> None:
    person = await known_at(factory, address)
    for _ in range(5):
        refused(await sign_in(client, person, WRONG), 401, "invalid_credentials")
    token = await factory.mailed_token(person.user, TokenPurpose.RESET_PASSWORD)
    accepted(await client.post(RESET, json={"token": token, "password": ANOTHER}), 204)
    accepted(await sign_in(client, person, ANOTHER))


@pytest.mark.parametrize(("age", "status"), [(timedelta(days=89), 200), (timedelta(days=91), 429)])
async def test_a_network_is_known_for_ninety_days_from_the_last_use_of_a_session_there(
    client: AsyncClient, address: str, factory: Factory, services: Services, age: timedelta, status: int
) -> None:
    person = await known_at(factory, address)
    await factory.run(
        "UPDATE sessions SET created_at = now() - interval '200 days', last_used_at = :at, revoked_at = :at WHERE id = :id",
        at=datetime.now(UTC) - age,
        id=person.session_id,
    )
    await lock(services, person)
    assert (await sign_in(client, person)).status_code == status


@pytest.mark.parametrize(("age", "status"), [(timedelta(minutes=59), 200), (timedelta(minutes=61), 429)])
async def test_a_reset_is_remembered_for_an_hour(client: AsyncClient, address: str, factory: Factory, services: Services, age: timedelta, status: int) -> None:
    person = await factory.person()
    await factory.mailed_token(person.user, TokenPurpose.RESET_PASSWORD, used_at=datetime.now(UTC) - age, used_from=address)
    await lock(services, person)
    assert (await sign_in(client, person)).status_code == status


async def test_a_reset_is_remembered_where_it_was_made_and_for_its_link_alone(client: AsyncClient, address: str, factory: Factory) -> None:
    person = await factory.person()
    tokens = [await factory.mailed_token(person.user, TokenPurpose.RESET_PASSWORD) for _ in range(2)]
    accepted(await client.post(RESET, json={"token": tokens[0], "password": ANOTHER}), 204)
    rows = await factory.run("SELECT used_from FROM one_time_tokens WHERE user_id = :id AND used_at IS NOT NULL ORDER BY used_from", id=person.user.id)
    assert rows == [(address,), (None,)]


async def test_where_another_account_is_known_makes_nobody_known(client: AsyncClient, address: str, factory: Factory, services: Services) -> None:
    person = await factory.person()
    await known_at(factory, address, email=person.user.email)
    await known_at(factory, address, tenant=person.tenant)
    await lock(services, person)
    refused(await sign_in(client, person), 429, "sign_in_throttled")


@pytest.mark.parametrize("sent", ["email", "tenant_slug"])
async def test_a_stranger_cannot_count_as_somebody_at_a_known_network(app: FastAPI, client: AsyncClient, address: str, factory: Factory, sent: str) -> None:
    """By putting a network into what is counted under."""
    person = await known_at(factory, address)
    body = {"email": person.user.email, "tenant_slug": person.tenant.slug}
    async with client_of(app) as stranger:
        for forged in (f"{body[sent]}\0{network_of(address)}", f"{network_of(address)}\0{body[sent]}"):
            for _ in range(6):
                assert (await stranger.post(LOGIN, json={**body, sent: forged, "password": WRONG})).status_code in (401, 422, 429)
    accepted(await sign_in(client, person))
