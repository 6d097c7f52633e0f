"""A tenant never loses its last active admin."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response

from app.config import Settings
from app.models import Role
from tests.api.answers import accepted, refused
from tests.factories import Factory, Person
from tests.faults.support import running

Removal = Callable[[AsyncClient, Person, Person], Awaitable[Response]]


def change(client: AsyncClient, actor: Person, target: Person, body: dict[str, Any]) -> Awaitable[Response]:
    return client.patch(f"/api/v1/users/{target.user.id}", headers=actor.headers, json=body)


async def delete(client: AsyncClient, actor: Person, target: Person) -> Response:
    return await client.delete(f"/api/v1/users/{target.user.id}", headers=actor.headers)


async def demote(client: AsyncClient, actor: Person, target: Person) -> Response:
    return await change(client, actor, target, {"role": "member"})


async def deactivate(client: AsyncClient, actor: Person, target: Person) -> Response:
    return await change(client, actor, target, {"is_active": False})


REMOVALS: tuple[Removal, ...] = (delete, demote, deactivate)


async def active_admins(factory: Factory, person: Person) -> int:
    ((number,),) = await factory.run("SELECT count(*) FROM users WHERE tenant_id = :id AND role = 'admin' AND is_active", id=person.tenant.id)
    return int(number)


@pytest.mark.parametrize("remove", REMOVALS)
async def test_the_last_admin_cannot_be_removed(client: AsyncClient, factory: Factory, remove: Removal) -> None:
    admin = await factory.person()
    await factory.user(admin.tenant, Role.MEMBER)
    refused(await remove(client, admin, admin), 409, "last_admin")
    assert await active_admins(factory, admin) == 1


@pytest.mark.parametrize("remove", REMOVALS)
async def test_an_admin_who_is_not_active_does_not_count(client: AsyncClient, factory: Factory, remove: Removal) -> None:
    admin = await factory.person()
    await factory.user(admin.tenant, Role.ADMIN, is_active=False)
    refused(await remove(client, admin, admin), 409, "last_admin")


@pytest.mark.parametrize("remove", REMOVALS)
async def test_an_admin_who_is_invited_but_has_not_come_does_not_count(client: AsyncClient, factory: Factory, remove: Removal) -> None:
    admin = await factory.person()
    await factory.invitation(admin.tenant, role=Role.ADMIN)
    refused(await remove(client, admin, admin), 409, "last_admin")


@pytest.mark.parametrize("remove", REMOVALS)
async def test_an_active_admin_who_has_yet_to_choose_a_password_counts(client: AsyncClient, factory: Factory, remove: Removal) -> None:
    """The link to do so was mailed, and whoever has lost it asks for another."""
    admin = await factory.person()
    await factory.user(admin.tenant, Role.ADMIN, password_hash=None)
    assert (await remove(client, admin, admin)).is_success


@pytest.mark.parametrize("remove", REMOVALS)
async def test_an_admin_of_another_tenant_does_not_count(client: AsyncClient, factory: Factory, remove: Removal) -> None:
    admin = await factory.person()
    await factory.person()
    refused(await remove(client, admin, admin), 409, "last_admin")


@pytest.mark.parametrize("remove", REMOVALS)
async def test_an_admin_who_is_not_the_last_can_be_removed(client: AsyncClient, factory: Factory, remove: Removal) -> None:
    admin = await factory.person()
    other = await factory.person(admin.tenant)
    assert (await remove(client, admin, other)).is_success
    assert await active_admins(factory, admin) == 1


@pytest.mark.parametrize("remove", REMOVALS)
async def test_an_admin_who_is_off_already_can_be_removed(client: AsyncClient, factory: Factory, remove: Removal) -> None:
    admin = await factory.person()
    other = await factory.person(admin.tenant, is_active=False)
    assert (await remove(client, admin, other)).is_success


async def test_the_last_admin_may_change_everything_else(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    accepted(await change(client, admin, admin, {"full_name": "Still Here", "role": "admin", "is_active": True}))


async def test_a_refused_removal_changes_nothing(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    before = accepted(await client.get(f"/api/v1/users/{admin.user.id}", headers=admin.headers))
    refused(await change(client, admin, admin, {"full_name": "Gone", "role": "viewer"}), 409, "last_admin")
    assert accepted(await client.get(f"/api/v1/users/{admin.user.id}", headers=admin.headers)) == before


# Nine kinds of races, 200 and more in all.
RACES, AT_ONCE = 24, 4


@pytest.fixture(scope="module")
async def elsewhere(app: FastAPI, settings: Settings) -> AsyncIterator[AsyncClient]:
    """Another instance of the service, with connections and a memory of its own."""
    async with running(settings) as (_, client):
        yield client


@pytest.mark.parametrize("second", REMOVALS)
@pytest.mark.parametrize("first", REMOVALS)
async def test_two_admins_who_remove_each_other_at_once_leave_one(
    client: AsyncClient, elsewhere: AsyncClient, factory: Factory, first: Removal, second: Removal
) -> None:
    async def race() -> None:
        one = await factory.person()
        other = await factory.person(one.tenant)
        answers = await asyncio.gather(first(client, one, other), second(elsewhere, other, one))
        assert [answer.is_success for answer in answers].count(True) == 1, [answer.text for answer in answers]
        assert {answer.status_code for answer in answers if not answer.is_success} <= {401, 403, 409}
        assert await active_admins(factory, one) == 1

    for _ in range(RACES // AT_ONCE):
        await asyncio.gather(*(race() for _ in range(AT_ONCE)))


async def test_of_many_admins_who_all_leave_at_once_one_stays(client: AsyncClient, factory: Factory) -> None:
    first = await factory.person()
    admins = [first, *[await factory.person(first.tenant) for _ in range(7)]]
    answers = await asyncio.gather(*(REMOVALS[i % 3](client, admin, admin) for i, admin in enumerate(admins)))
    assert [answer.is_success for answer in answers].count(True) == 7
    assert await active_admins(factory, first) == 1
