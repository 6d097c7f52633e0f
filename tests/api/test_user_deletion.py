"""Deleting a user who made very many things: in parts, of which none takes long, and in the end wholly."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from httpx import AsyncClient
from sqlalchemy import event

from app.services import releasing
from app.services.container import Services
from tests.api.answers import accepted, refused
from tests.factories import Factory, Person

USERS = "/api/v1/users"
AT_ONCE = 3
MANY = 10

LEFT = "SELECT (SELECT count(*) FROM {table} WHERE tenant_id = :tenant AND {column} = :user), (SELECT count(*) FROM {table} WHERE tenant_id = :tenant)"
KINDS = (("projects", "owner_id"), ("resources", "created_by"), ("invitations", "invited_by"))


@pytest.fixture(autouse=True)
def _few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releasing, "AT_ONCE", AT_ONCE)


async def busy_person(factory: Factory, admin: Person) -> Person:
    """Return somebody who made many things of each kind, and is signed in many times."""
    person = await factory.person(admin.tenant)
    project = await factory.project(admin.tenant)
    for _ in range(MANY):
        await factory.project(admin.tenant, owner_id=person.user.id)
        await factory.resource(project, created_by=person.user.id)
        await factory.invitation(admin.tenant, invited_by=person.user.id)
        await factory.sign_in(admin.tenant, person.user)
    return person


@contextmanager
def rows_of_each_statement(services: Services) -> Iterator[list[int]]:
    """Gather how many rows each statement touches that takes the user out of something."""
    touched: list[int] = []

    def note(connection: Any, cursor: Any, statement: str, *_: object) -> None:
        if statement.startswith(tuple(f"UPDATE {table} " for table, _ in KINDS)):
            touched.append(cursor.rowcount)

    engine = services.database.engine.sync_engine
    event.listen(engine, "after_cursor_execute", note)
    try:
        yield touched
    finally:
        event.remove(engine, "after_cursor_execute", note)


async def test_all_of_it_stays_and_is_nobody_s(client: AsyncClient, factory: Factory, services: Services) -> None:
    admin = await factory.person()
    person = await busy_person(factory, admin)
    with rows_of_each_statement(services) as touched:
        accepted(await client.delete(f"{USERS}/{person.user.id}", headers=admin.headers), 204)
    assert 0 < max(touched) <= AT_ONCE
    refused(await client.get(f"{USERS}/{person.user.id}", headers=admin.headers), 404, "not_found")
    for table, column in KINDS:
        ((owned, all_of_them),) = await factory.run(LEFT.format(table=table, column=column), tenant=admin.tenant.id, user=person.user.id)
        assert (owned, all_of_them) == (0, MANY + (table == "projects"))


async def test_what_was_broken_off_has_put_the_user_out_and_is_continued(
    client: AsyncClient, factory: Factory, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = await factory.person()
    person = await busy_person(factory, admin)
    accepted(await client.get(USERS, headers=person.headers))
    with monkeypatch.context() as breaking:
        release, calls = releasing.release_some, 0

        async def break_off(*arguments: Any) -> bool:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise RuntimeError("the process ends here")
            return await release(*arguments)

        breaking.setattr("app.api.endpoints.users.release_some", break_off)
        assert (await client.delete(f"{USERS}/{person.user.id}", headers=admin.headers)).status_code == 500
    refused(await client.get(USERS, headers=person.headers), 401, "token_revoked")
    assert accepted(await client.get(f"{USERS}/{person.user.id}", headers=admin.headers))["is_active"] is False
    accepted(await client.delete(f"{USERS}/{person.user.id}", headers=admin.headers), 204)
    refused(await client.get(f"{USERS}/{person.user.id}", headers=admin.headers), 404, "not_found")


async def test_admins_who_made_very_much_can_delete_themselves(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    person = await busy_person(factory, admin)
    accepted(await client.delete(f"{USERS}/{person.user.id}", headers=person.headers), 204)
    refused(await client.get(f"{USERS}/{person.user.id}", headers=admin.headers), 404, "not_found")


async def test_the_last_admin_is_refused_before_anything_is_taken_away(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    project = await factory.project(admin.tenant, owner_id=admin.user.id)
    refused(await client.delete(f"{USERS}/{admin.user.id}", headers=admin.headers), 409, "last_admin")
    assert accepted(await client.get(f"/api/v1/projects/{project.id}", headers=admin.headers))["owner_id"] == str(admin.user.id)
