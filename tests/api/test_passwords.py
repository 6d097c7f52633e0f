"""Passwords: which are accepted, and that all of them counts."""

import re

import pytest
from httpx import AsyncClient

from app.models import Tenant
from tests.api.answers import accepted, refused
from tests.api.world import newcomer
from tests.factories import Factory

REGISTER = "/api/v1/auth/register"
LOGIN = "/api/v1/auth/login"


async def log_in(client: AsyncClient, asked: dict[str, str], password: str) -> int:
    body = {"email": asked["email"], "password": password, "tenant_slug": asked["tenant_slug"]}
    return (await client.post(LOGIN, json=body)).status_code


@pytest.mark.parametrize("password", ["password", "PASSWORD", "password1", "iloveyou", "qwertyuiop", "12345678", " password "])
async def test_a_common_password_is_refused(client: AsyncClient, password: str) -> None:
    refused(await client.post(REGISTER, json=newcomer(password=password)), 422, "weak_password")


@pytest.mark.parametrize("rewrite", [str, str.upper])
async def test_the_address_is_no_password(client: AsyncClient, rewrite: type[str]) -> None:
    asked = newcomer()
    refused(await client.post(REGISTER, json={**asked, "password": rewrite(asked["email"])}), 422, "weak_password")


async def test_the_name_of_the_new_tenant_is_no_password(client: AsyncClient) -> None:
    refused(await client.post(REGISTER, json=newcomer(tenant_name="Globex Corporation", password="globex corporation")), 422, "weak_password")


async def test_the_slug_of_the_tenant_is_no_password(client: AsyncClient) -> None:
    asked = newcomer()
    refused(await client.post(REGISTER, json={**asked, "password": asked["tenant_slug"]}), 422, "weak_password")


async def test_the_name_of_the_tenant_that_is_joined_is_no_password(client: AsyncClient, factory: Factory) -> None:
    tenant: Tenant = await factory.tenant(name="Globex Corporation", registration_policy="open")
    asked = newcomer(tenant_slug=tenant.slug, password="globex corporation")
    del asked["tenant_name"]
    refused(await client.post(REGISTER, json=asked), 422, "weak_password")


async def test_an_admin_cannot_give_a_weak_password_either(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    body = {"email": "new@example.com", "full_name": "New", "password": admin.tenant.name.lower()}
    refused(await client.post("/api/v1/users", headers=admin.headers, json=body), 422, "weak_password")


@pytest.mark.parametrize("password", ["a long phrase that is not so common", "p a s s w o r d", "🔑" * 8, "ünïcödé-pässwörd"])
async def test_characters_of_any_kind_make_a_password(client: AsyncClient, password: str) -> None:
    asked = newcomer(password=password)
    accepted(await client.post(REGISTER, json=asked), 201)
    assert await log_in(client, asked, password) == 200


@pytest.mark.parametrize(("length", "status"), [(7, 422), (8, 201), (128, 201), (129, 422)])
@pytest.mark.parametrize("character", ["x", "ü", "🔑"])
async def test_a_password_has_8_to_128_characters(client: AsyncClient, length: int, status: int, character: str) -> None:
    response = await client.post(REGISTER, json=newcomer(password="zq" + character * (length - 2)))
    assert response.status_code == status, response.text


async def test_every_character_of_a_long_password_counts(client: AsyncClient) -> None:
    password = "a long passphrase " * 7
    asked = newcomer(password=password)
    accepted(await client.post(REGISTER, json=asked), 201)
    assert await log_in(client, asked, password) == 200
    assert await log_in(client, asked, password[:-1] + "!") == 401
    assert await log_in(client, asked, password[:72]) == 401
    assert await log_in(client, asked, password + "x") == 401


async def test_spaces_around_a_password_count(client: AsyncClient) -> None:
    asked = newcomer(password=" two spaces around ")
    accepted(await client.post(REGISTER, json=asked), 201)
    assert await log_in(client, asked, asked["password"]) == 200
    assert await log_in(client, asked, asked["password"].strip()) == 401


async def test_a_refused_password_is_not_echoed(client: AsyncClient) -> None:
    for password in ("s3cr3t!", "s3cr3t!" * 20, "s3cr3t!-\0-s3cr3t!", "iloveyou", 12345678987, ["s3cr3t!"], {"s3cr3t!": 1}):
        response = await client.post(REGISTER, json=newcomer(password=password))
        assert response.status_code == 422
        assert not {"s3cr3t!", "iloveyou", "12345678987"} & set(re.findall(r"[\w!]+", response.text))


async def test_a_password_is_stored_as_a_slow_hash(client: AsyncClient, factory: Factory) -> None:
    asked = newcomer()
    accepted(await client.post(REGISTER, json=asked), 201)
    ((stored,),) = await factory.run("SELECT password_hash FROM users WHERE email = :email", email=asked["email"])
    assert stored.startswith("$bcrypt-sha256$")
