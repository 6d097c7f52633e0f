"""Sign-in: who gets in, and what whoever does not can learn."""

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from httpx import AsyncClient

from app.config import Settings
from app.core.exceptions import Overloaded
from app.models import Role
from app.services.container import Services
from tests.api.answers import accepted, refused
from tests.api.world import newcomer
from tests.factories import PASSWORD, Factory, Person
from tests.faults.support import changed, running

LOGIN = "/api/v1/auth/login"


def credentials(person: Person, **changes: str) -> dict[str, str]:
    return {"email": person.user.email, "password": PASSWORD, "tenant_slug": person.tenant.slug, **changes}


@pytest.fixture
def hashes(services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The hashes that passwords were compared with."""
    compared: list[str] = []
    verify = services.passwords._context.verify

    def counting(password: str, stored: str, **options: Any) -> bool:
        compared.append(stored)
        return bool(verify(password, stored, **options))

    monkeypatch.setattr(services.passwords._context, "verify", counting)
    yield compared


async def test_the_right_password_gives_a_token_that_works(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person(role=Role.VIEWER)
    answer = accepted(await client.post(LOGIN, json=credentials(person)))
    assert answer.keys() == {"access_token", "token_type", "expires_in", "refresh_token", "refresh_expires_in", "user"}
    assert (answer["token_type"], answer["expires_in"], answer["refresh_expires_in"]) == ("bearer", 30 * 60, 30 * 24 * 3600)
    headers = {"Authorization": f"Bearer {answer['access_token']}", "X-Tenant-Slug": person.tenant.slug}
    assert accepted(await client.get("/api/v1/auth/me", headers=headers))["user"]["id"] == str(person.user.id)


async def test_the_scheme_bearer_is_written_in_any_case(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    accepted(await client.get("/api/v1/auth/me", headers={**person.headers, "Authorization": f"bEARER {person.token}"}))


async def test_another_sign_in_shows_in_every_session_at_once(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    assert accepted(await client.get("/api/v1/auth/me", headers=person.headers))["user"]["last_login_at"] is None
    answer = accepted(await client.post(LOGIN, json=credentials(person)))
    shown = accepted(await client.get("/api/v1/auth/me", headers=person.headers))["user"]
    assert shown["last_login_at"] == answer["user"]["last_login_at"]


async def test_signing_in_is_remembered_with_its_time(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    answer = accepted(await client.post(LOGIN, json=credentials(person)))
    assert answer["user"]["last_login_at"] is not None
    shown = accepted(await client.get(f"/api/v1/users/{person.user.id}", headers=person.headers))
    assert shown["last_login_at"] == answer["user"]["last_login_at"]
    assert shown["updated_at"] == answer["user"]["updated_at"]


async def hash_of(factory: Factory, person: Person) -> str:
    ((stored,),) = await factory.run("SELECT password_hash FROM users WHERE id = :id", id=person.user.id)
    return str(stored)


async def test_a_password_is_hashed_anew_at_the_first_sign_in_after_its_cost_was_changed(settings: Settings, factory: Factory) -> None:
    """By the time that the old cost takes, the account could be told from an unknown one."""
    person = await factory.person()
    async with running(changed(settings, password_hash_rounds=5)) as (_, client):
        refused(await client.post(LOGIN, json=credentials(person, password="a wrong passphrase")), 401, "invalid_credentials")
        assert ",r=4$" in await hash_of(factory, person)
        accepted(await client.post(LOGIN, json=credentials(person)))
        renewed = await hash_of(factory, person)
        assert ",r=5$" in renewed
        accepted(await client.post(LOGIN, json=credentials(person)))
        assert await hash_of(factory, person) == renewed


async def test_many_first_sign_ins_at_once_after_a_change_of_cost_all_succeed(settings: Settings, factory: Factory) -> None:
    person = await factory.person()
    async with running(changed(settings, password_hash_rounds=5)) as (_, client):
        answers = await asyncio.gather(*(client.post(LOGIN, json=credentials(person)) for _ in range(4)))
        assert [answer.status_code for answer in answers] == [200] * 4
        accepted(await client.post(LOGIN, json=credentials(person)))


async def test_where_all_cores_are_busy_the_old_hash_stays_and_the_sign_in_succeeds(
    settings: Settings, factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = await factory.person()

    async def busy(_: str) -> str:
        raise Overloaded("Too many.")

    async with running(changed(settings, password_hash_rounds=5)) as (app, client):
        monkeypatch.setattr(app.state.services.passwords, "hash", busy)
        accepted(await client.post(LOGIN, json=credentials(person)))
    assert ",r=4$" in await hash_of(factory, person)


async def test_each_sign_in_is_a_session_of_its_own(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    first, second = [accepted(await client.post(LOGIN, json=credentials(person))) for _ in range(2)]
    assert first["refresh_token"] != second["refresh_token"]
    assert len(await factory.run("SELECT 1 FROM sessions WHERE user_id = :id", id=person.user.id)) == 3


async def test_of_a_refresh_token_only_the_hash_is_stored(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    token = accepted(await client.post(LOGIN, json=credentials(person)))["refresh_token"]
    rows = await factory.run("SELECT refresh_token_hash FROM sessions WHERE user_id = :id", id=person.user.id)
    assert all(token.encode() not in bytes(stored) for (stored,) in rows)


@pytest.mark.parametrize("rewrite", [str.upper, lambda text: f" {text} "], ids=["upper case", "with spaces"])
async def test_address_and_slug_are_written_in_any_case(client: AsyncClient, factory: Factory, rewrite: type[str]) -> None:
    person = await factory.person()
    body = credentials(person, email=rewrite(person.user.email), tenant_slug=rewrite(person.tenant.slug))
    accepted(await client.post(LOGIN, json=body))


@pytest.mark.parametrize(
    "email", ["ada@xn--bcher-kva.example", "ada@BÜCHER.example", "ada@bu\u0308cher.example", "Ada <ada@example.com>", "\uff41da@example.com"]
)
async def test_whoever_registered_signs_in_with_the_address_as_it_was_given(client: AsyncClient, email: str) -> None:
    asked = newcomer(email=email)
    if (await client.post("/api/v1/auth/register", json=asked)).status_code == 422:
        return  # Refused is as good.
    accepted(await client.post(LOGIN, json={"email": email, "password": PASSWORD, "tenant_slug": asked["tenant_slug"]}))


async def test_unknown_tenant_unknown_address_and_wrong_password_are_told_apart_by_nothing(client: AsyncClient, factory: Factory, hashes: list[str]) -> None:
    person = await factory.person()
    wrong = (
        {"tenant_slug": f"none-{uuid4().hex[:12]}"},
        {"tenant_slug": "No Slug At All!"},
        {"email": f"{uuid4().hex}@example.com"},
        {"email": "no address at all"},
        {"password": "a wrong passphrase"},
    )
    seen = []
    for changes in wrong:
        hashes.clear()
        response = await client.post(LOGIN, json=credentials(person, **changes), headers={"X-Request-ID": "the-same"})
        refused(response, 401, "invalid_credentials")
        seen.append((response.content, response.headers["www-authenticate"], sorted(response.headers.keys()), len(hashes)))
    assert seen == [seen[0]] * len(wrong)
    assert seen[0][3] == 1


async def test_what_nobody_s_password_is_compared_with_costs_as_much_as_somebody_s(client: AsyncClient, factory: Factory, hashes: list[str]) -> None:
    person = await factory.person()
    await client.post(LOGIN, json=credentials(person, email="nobody@example.com"))
    await client.post(LOGIN, json=credentials(person))
    nobody, somebody = hashes
    assert nobody.split("$")[:3] == somebody.split("$")[:3]


async def test_an_account_without_a_password_cannot_sign_in(client: AsyncClient, factory: Factory, hashes: list[str]) -> None:
    person = await factory.person(password_hash=None)
    refused(await client.post(LOGIN, json=credentials(person)), 401, "invalid_credentials")
    refused(await client.post(LOGIN, json=credentials(person, password="no one's password")), 401, "invalid_credentials")
    assert len(hashes) == 2


async def test_only_the_right_password_tells_that_an_account_is_not_active(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person(is_active=False)
    refused(await client.post(LOGIN, json=credentials(person, password="a wrong passphrase")), 401, "invalid_credentials")
    refused(await client.post(LOGIN, json=credentials(person)), 403, "account_inactive")


async def test_only_the_right_password_tells_that_a_tenant_is_suspended(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person(await factory.tenant(is_active=False))
    refused(await client.post(LOGIN, json=credentials(person, password="a wrong passphrase")), 401, "invalid_credentials")
    refused(await client.post(LOGIN, json=credentials(person)), 403, "tenant_inactive")


async def test_a_refused_sign_in_opens_no_session(client: AsyncClient, factory: Factory) -> None:
    user = await factory.user(await factory.tenant(), is_active=False)
    tenant_slug = (await factory.run("SELECT slug FROM tenants WHERE id = :id", id=user.tenant_id))[0][0]
    refused(await client.post(LOGIN, json={"email": user.email, "password": PASSWORD, "tenant_slug": tenant_slug}), 403, "account_inactive")
    assert await factory.run("SELECT 1 FROM sessions WHERE user_id = :id", id=user.id) == []
    assert await factory.run("SELECT last_login_at FROM users WHERE id = :id", id=user.id) == [(None,)]


async def test_the_same_address_in_two_tenants_is_two_people(client: AsyncClient, factory: Factory) -> None:
    email = f"{uuid4().hex[:12]}@example.com"
    first, second = await factory.person(email=email), await factory.person(email=email)
    for person in (first, second):
        assert accepted(await client.post(LOGIN, json=credentials(person)))["user"]["id"] == str(person.user.id)


async def test_a_header_and_a_body_that_name_two_tenants_are_refused(client: AsyncClient, factory: Factory) -> None:
    person, other = await factory.person(), await factory.person()
    for headers in (
        {"X-Tenant-Slug": other.tenant.slug},
        {"X-Tenant-Slug": "nobody-s"},
        {"Host": f"{other.tenant.subdomain}.localhost"},
        {"X-Tenant-ID": str(other.tenant.id)},
        {"X-Tenant-ID": str(uuid4())},
    ):
        refused(await client.post(LOGIN, json=credentials(person), headers=headers), 400, "tenant_required")


async def test_a_header_and_a_body_that_name_one_tenant_agree(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person(await factory.tenant(subdomain=f"sub-{uuid4().hex[:12]}"))
    for headers in (
        {"X-Tenant-Slug": person.tenant.slug.upper()},
        {"Host": f"{person.tenant.subdomain}.localhost:8000"},
        {"X-Tenant-ID": str(person.tenant.id)},
    ):
        accepted(await client.post(LOGIN, json=credentials(person), headers=headers))


async def test_a_new_tenant_is_founded_on_its_own_subdomain(client: AsyncClient) -> None:
    slug = f"new-{uuid4().hex[:12]}"
    body = {"email": "founder@example.com", "password": PASSWORD, "full_name": "Founder", "tenant_slug": slug}
    accepted(await client.post("/api/v1/auth/register", json=body, headers={"Host": f"{slug}.localhost"}), 201)
