"""Access tokens that are not quite ours, or not any more."""

import base64
import hmac
import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from httpx import AsyncClient
from joserfc import jwt
from pydantic import SecretStr

from app.config import Settings
from app.core.security import ALGORITHM, AccessTokens
from app.models import Role
from app.services.container import Services
from tests.api.answers import accepted, refused
from tests.factories import Factory, Person

ME = "/api/v1/auth/me"
CLAIMS = ("iss", "aud", "sub", "tenant_id", "role", "sid", "jti", "iat", "nbf", "exp")

# A token in its parts: its header, its claims, and the key that it is signed with.
Parts = tuple[dict[str, Any], dict[str, Any], bytes]

CHANGED_CLAIMS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    **{f"no {name}": lambda claims, name=name: {key: claims[key] for key in claims if key != name} for name in CLAIMS},  # type: ignore[misc]  # the default binds the name
    "wrong audience": lambda claims: {**claims, "aud": "another-service"},
    "wrong issuer": lambda claims: {**claims, "iss": "another-issuer"},
    "not yet valid": lambda claims: {**claims, "nbf": claims["exp"], "exp": claims["exp"] + 1},
    "a subject that is no identifier": lambda claims: {**claims, "sub": "admin"},
    "a session that is a list": lambda claims: {**claims, "sid": []},
    "a tenant that is a number": lambda claims: {**claims, "tenant_id": 7},
    "a time that is a word": lambda claims: {**claims, "exp": "tomorrow"},
}
CHANGED_HEADERS: dict[str, dict[str, Any]] = {
    "an unknown key id": {"kid": "unknown"},
    "a key id that is a list": {"kid": []},
    "another algorithm": {"alg": "HS512"},
    "a critical extension": {"crit": ["exp"], "exp": 1},
}
CHANGED_TEXT: dict[str, Callable[[str], str]] = {
    "alg none": lambda token: f"eyJhbGciOiJub25lIn0.{token.split('.')[1]}.",
    "no signature": lambda token: token.rpartition(".")[0] + ".",
    "cut": lambda token: token[:-2],
    "100 kB": lambda token: token + "x" * 100_000,
    "not ASCII": lambda token: token + "é",
    "deeply nested": lambda token: ".".join(["eyJ4Ijpb" + "W1tb" * 900] * 3),
    "garbage": lambda token: "a.b.c",
    "no dots": lambda token: "x" * 40,
    "two at once": lambda token: f"{token}, {token}",
}


def parts_of(token: str, settings: Settings) -> Parts:
    tokens = AccessTokens(settings)
    key = tokens._keys[tokens._current]
    decoded = jwt.decode(token, key, algorithms=[ALGORITHM])
    return dict(decoded.header), dict(decoded.claims), key.raw_value


def signed(header: dict[str, Any], claims: dict[str, Any], key: bytes) -> str:
    """Return a token with a good signature. By hand: a library would not sign some of these."""
    text = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims))
    digest = hmac.digest(key, text.encode(), "sha512" if header["alg"] == "HS512" else "sha256")
    return f"{text}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


async def test_a_token_that_was_taken_apart_and_signed_again_is_good(client: AsyncClient, factory: Factory, settings: Settings) -> None:
    person = await factory.person()
    token = signed(*parts_of(person.token, settings))
    accepted(await client.get(ME, headers={**person.headers, "Authorization": f"Bearer {token}"}))


async def refuse(client: AsyncClient, person: Person, token: str, code: str) -> None:
    headers = [(b"X-Tenant-Slug", person.tenant.slug.encode()), (b"Authorization", f"Bearer {token}".encode())]
    response = await client.get(ME, headers=headers)
    refused(response, 401, code)
    assert response.headers["www-authenticate"] == 'Bearer error="invalid_token"'


@pytest.mark.parametrize("kind", CHANGED_CLAIMS)
async def test_a_token_with_other_claims_is_refused(client: AsyncClient, factory: Factory, settings: Settings, kind: str) -> None:
    person = await factory.person()
    header, claims, key = parts_of(person.token, settings)
    await refuse(client, person, signed(header, CHANGED_CLAIMS[kind](claims), key), "token_invalid")


@pytest.mark.parametrize("kind", CHANGED_HEADERS)
async def test_a_token_with_another_header_is_refused(client: AsyncClient, factory: Factory, settings: Settings, kind: str) -> None:
    person = await factory.person()
    header, claims, key = parts_of(person.token, settings)
    await refuse(client, person, signed({**header, **CHANGED_HEADERS[kind]}, claims, key), "token_invalid")


@pytest.mark.parametrize("kind", CHANGED_TEXT)
async def test_a_token_that_was_tampered_with_is_refused(client: AsyncClient, factory: Factory, kind: str) -> None:
    person = await factory.person()
    await refuse(client, person, CHANGED_TEXT[kind](person.token), "token_invalid")


async def test_a_token_that_another_key_has_signed_is_refused(client: AsyncClient, factory: Factory, settings: Settings) -> None:
    person = await factory.person()
    other = AccessTokens(settings.model_copy(update={"secret_key": SecretStr("x" * 40)}))
    token = other.issue(user_id=person.user.id, tenant_id=person.tenant.id, session_id=person.session_id, role=Role.ADMIN)
    await refuse(client, person, token, "token_invalid")


async def test_an_expired_token_is_refused(client: AsyncClient, factory: Factory, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    person = await factory.person()
    monkeypatch.setattr(services.tokens, "lifetime", -1)
    token = services.tokens.issue(user_id=person.user.id, tenant_id=person.tenant.id, session_id=person.session_id, role=Role.ADMIN)
    response = await client.get(ME, headers={**person.headers, "Authorization": f"Bearer {token}"})
    refused(response, 401, "token_expired")
    assert response.headers["www-authenticate"].startswith("Bearer")


async def test_the_role_in_a_token_counts_for_nothing(client: AsyncClient, factory: Factory, services: Services) -> None:
    person = await factory.person(role=Role.VIEWER)
    token = services.tokens.issue(user_id=person.user.id, tenant_id=person.tenant.id, session_id=person.session_id, role=Role.ADMIN)
    headers = {**person.headers, "Authorization": f"Bearer {token}"}
    refused(await client.patch("/api/v1/tenant", headers=headers, json={"name": "Mine"}), 403, "forbidden")


@pytest.mark.parametrize("change", ["revoked_at = now()", "expires_at = now()"])
async def test_a_session_that_has_ended_is_refused(client: AsyncClient, factory: Factory, change: str) -> None:
    person = await factory.person()
    await factory.run(f"UPDATE sessions SET {change} WHERE id = :id", id=person.session_id)
    refused(await client.get(ME, headers=person.headers), 401, "token_revoked")


async def test_a_token_of_a_session_that_never_was_is_refused(client: AsyncClient, factory: Factory, services: Services) -> None:
    person = await factory.person()
    token = services.tokens.issue(user_id=person.user.id, tenant_id=person.tenant.id, session_id=uuid4(), role=Role.ADMIN)
    refused(await client.get(ME, headers={**person.headers, "Authorization": f"Bearer {token}"}), 401, "token_revoked")


async def test_a_token_with_the_session_of_somebody_else_is_refused(client: AsyncClient, factory: Factory, services: Services) -> None:
    person = await factory.person()
    other = await factory.person(person.tenant, Role.VIEWER)
    token = services.tokens.issue(user_id=person.user.id, tenant_id=person.tenant.id, session_id=other.session_id, role=Role.ADMIN)
    refused(await client.get(ME, headers={**person.headers, "Authorization": f"Bearer {token}"}), 401, "token_revoked")
