"""Who the caller is, and what becomes of a caller who is switched off."""

from typing import Any
from uuid import uuid4

import pytest
from httpx import AsyncClient
from joserfc import jwt

from app.config import Settings
from app.core.security import ALGORITHM, AccessTokens
from app.models import Role
from app.services.container import Services
from tests.api.answers import accepted, refused
from tests.factories import Factory, Person

ME = "/api/v1/auth/me"

VIEWERS = {"projects:read", "resources:read", "tenant:read", "users:read", "users:update-self"}
MEMBERS = VIEWERS | {"projects:create", "projects:delete-own", "projects:update", "resources:create", "resources:delete", "resources:update"}
ADMINS = MEMBERS | {
    "projects:delete",
    "projects:read-deleted",
    "projects:restore",
    "projects:set-owner",
    "tenant:update",
    "users:create",
    "users:delete",
    "users:update",
}


@pytest.mark.parametrize(("role", "permissions"), [(Role.VIEWER, VIEWERS), (Role.MEMBER, MEMBERS), (Role.ADMIN, ADMINS)])
async def test_me_shows_what_the_role_may_do(client: AsyncClient, factory: Factory, role: Role, permissions: set[str]) -> None:
    person = await factory.person(role=role)
    answer = accepted(await client.get(ME, headers=person.headers))
    assert set(answer["permissions"]) == permissions
    assert answer["user"]["role"] == role


async def test_me_shows_the_caller_and_the_tenant_as_the_other_calls_do(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    answer = accepted(await client.get(ME, headers=person.headers))
    assert answer["user"] == accepted(await client.get(f"/api/v1/users/{person.user.id}", headers=person.headers))
    assert answer["tenant"] == accepted(await client.get("/api/v1/tenant", headers=person.headers))


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Token abc"])
async def test_without_a_bearer_token_nobody_is_known(client: AsyncClient, factory: Factory, authorization: str | None) -> None:
    headers = {"X-Tenant-Slug": (await factory.tenant()).slug} | ({} if authorization is None else {"Authorization": authorization})
    response = await client.get(ME, headers=headers)
    refused(response, 401, "not_authenticated")
    assert response.headers["www-authenticate"] == "Bearer"


def forged(person: Person, settings: Settings, kind: str) -> str:
    """Return a token that is not quite one of ours."""
    tokens = AccessTokens(settings)
    key = tokens._keys[tokens._current]
    decoded = jwt.decode(person.token, key, algorithms=[ALGORITHM])
    header, claims = dict(decoded.header), dict(decoded.claims)
    changed: dict[str, dict[str, Any]] = {
        "wrong audience": {"aud": "another-service"},
        "wrong issuer": {"iss": "another-issuer"},
        "not yet valid": {"nbf": claims["exp"], "exp": claims["exp"] + 1},
        "a subject that is no identifier": {"sub": "admin"},
        "a session that is a list": {"sid": []},
        "a tenant that is a number": {"tenant_id": 7},
    }
    if kind.startswith("no "):
        del claims[kind.removeprefix("no ")]
    elif kind == "alg none":
        return f"eyJhbGciOiJub25lIn0.{person.token.split('.')[1]}."
    elif kind == "another key":
        other = AccessTokens(settings.model_copy(update={"secret_key": type(settings.secret_key)("x" * 40)}))
        return other.issue(user_id=person.user.id, tenant_id=person.tenant.id, session_id=person.session_id, role=Role.ADMIN)
    elif kind == "another algorithm":
        return jwt.encode({**header, "alg": "HS512"}, claims, key, algorithms=["HS512"])
    elif kind == "an unknown key id":
        return jwt.encode({**header, "kid": "unknown"}, claims, key, algorithms=[ALGORITHM])
    elif kind == "cut":
        return person.token[:-1]
    elif kind == "100 kB":
        return person.token + "x" * 100_000
    elif kind == "not ASCII":
        return person.token + "é"
    elif kind == "nested":
        return ".".join(["e" + "W" * 1300] * 3)
    elif kind == "garbage":
        return "a.b.c"
    return jwt.encode(header, {**claims, **changed.get(kind, {})}, key, algorithms=[ALGORITHM])


@pytest.mark.parametrize(
    "kind",
    [
        *("no iss", "no aud", "no sub", "no tenant_id", "no role", "no sid", "no jti", "no iat", "no nbf", "no exp"),
        *("alg none", "another key", "another algorithm", "an unknown key id", "cut", "100 kB", "not ASCII", "nested", "garbage"),
        *("wrong audience", "wrong issuer", "not yet valid", "a subject that is no identifier", "a session that is a list", "a tenant that is a number"),
    ],
)
async def test_a_forged_token_is_refused(client: AsyncClient, factory: Factory, settings: Settings, kind: str) -> None:
    person = await factory.person()
    token = forged(person, settings, kind)
    response = await client.get(ME, headers=[(b"X-Tenant-Slug", person.tenant.slug.encode()), (b"Authorization", f"Bearer {token}".encode("latin-1"))])
    refused(response, 401, "token_invalid")
    assert response.headers["www-authenticate"] == 'Bearer error="invalid_token"'


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
