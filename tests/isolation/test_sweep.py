"""The sweep over the whole API, with every layer in place; and proof that it would notice."""

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response

from app.models import Role
from app.services.container import Services
from tests.factories import PASSWORD, Factory
from tests.isolation.conftest import a_world
from tests.isolation.sweep import CASES, MARKER, Case, Sweep, leaked, told, uncovered
from tests.jobs.support import add_views, flush


async def test_no_request_reads_or_changes_anything_of_another_tenant() -> None:
    async with a_world("sweep") as world:
        sweep = Sweep(world)
        findings = await sweep.run()
        assert not findings, told(findings)
        assert sweep.requests > 500


async def test_a_view_is_counted_for_the_viewer_s_own_project_alone(services: Services, client: AsyncClient, factory: Factory) -> None:
    """Views are carried to PostgreSQL later, by a job: then, too, each within its tenant."""
    victim, attacker = await factory.person(), await factory.person()
    foreign, own = await factory.project(victim.tenant), await factory.project(attacker.tenant)
    for project in (foreign, own):
        await client.get(f"/api/v1/projects/{project.id}", headers=attacker.headers)
    # What no endpoint does: a view that names another tenant's project.
    await services.views.count(attacker.tenant.id, foreign.id)
    # The first may find a batch from before.
    for _ in range(2):
        await flush(services)
    await add_views(services, factory)
    counted = await factory.run("SELECT id, view_count FROM projects WHERE id = ANY (:ids)", ids=[foreign.id, own.id])
    assert dict(map(tuple, counted)) == {foreign.id: 0, own.id: 1}


async def test_every_operation_of_the_document_has_a_case(app: FastAPI) -> None:
    assert uncovered(app.openapi(), CASES) == []


@pytest.mark.parametrize("operation", sorted({case.operation for case in CASES}))
async def test_an_operation_without_a_case_is_noticed(app: FastAPI, operation: str) -> None:
    assert uncovered(app.openapi(), [case for case in CASES if case.operation != operation]) == [f"{operation} has no case"]


async def test_a_reference_that_no_case_attacks_is_noticed(app: FastAPI) -> None:
    """Each of the places that the cases name is demanded by the document too, save addresses and mailed tokens, which name somebody only in some calls."""
    for operation in {case.operation for case in CASES}:
        bare = [case for case in CASES if case.operation != operation] + [Case(operation)]
        places = {place for case in CASES if case.operation == operation for place in case.places} - {"body.email", "body.token"}
        assert uncovered(app.openapi(), bare) == sorted(f"{operation} has no case for {place}" for place in places)


async def test_a_case_of_an_operation_that_is_no_more_is_noticed(app: FastAPI) -> None:
    assert uncovered(app.openapi(), [*CASES, Case("GET /api/v1/gone")]) == ["GET /api/v1/gone is no operation"]


def test_what_the_request_itself_said_is_no_leak_and_all_else_is() -> None:
    answer = Response(404, headers={"X-Name": "one"}, text=f'{{"instance": "/projects/{MARKER}-1", "name": "{MARKER.upper()}-2"}}')
    assert leaked(answer, {f"{MARKER}-1": "path"}, [f"{MARKER}-1"]) == set()
    assert leaked(answer, {f"{MARKER}-2": "name"}, [f"{MARKER}-1"]) == {"name"}
    assert leaked(answer, {"x-name: one": "header"}, []) == {"header"}


async def test_an_address_in_use_in_another_tenant_is_as_free_as_any(client: AsyncClient, factory: Factory) -> None:
    """The same address in two tenants is two people, and nothing tells one tenant of the other."""
    victim, attacker = await factory.person(), await factory.person()
    email = victim.user.email
    registration = {"email": email, "password": PASSWORD, "full_name": "Namesake", "tenant_slug": attacker.tenant.slug}
    assert (await client.post("/api/v1/auth/register", json=registration)).status_code == 201
    for tenant_of in (await factory.person(), await factory.person()):
        created = await client.post("/api/v1/users", headers=tenant_of.headers, json={"email": email, "full_name": "Namesake"})
        assert created.status_code == 201
        found = await client.get("/api/v1/users", headers=tenant_of.headers, params={"q": email})
        assert [user["id"] for user in found.json()["items"]] == [created.json()["id"]]
    renamed = await factory.person(role=Role.VIEWER)
    changed = await client.patch(f"/api/v1/users/{renamed.user.id}", headers=renamed.headers, json={"email": email})
    assert changed.status_code == 200


async def test_a_name_of_a_person_signs_in_to_that_person_s_tenant_alone(client: AsyncClient, factory: Factory) -> None:
    victim, attacker = await factory.person(), await factory.person()
    credentials = {"email": victim.user.email, "password": PASSWORD, "tenant_slug": attacker.tenant.slug}
    assert (await client.post("/api/v1/auth/login", json=credentials)).json()["code"] == "invalid_credentials"
    unknown = {**credentials, "tenant_slug": "t-that-nobody-has"}
    assert (await client.post("/api/v1/auth/login", json=unknown)).json()["code"] == "invalid_credentials"
    mine = await client.post("/api/v1/auth/login", json={**credentials, "tenant_slug": victim.tenant.slug})
    assert mine.json()["user"]["id"] == str(victim.user.id)
