"""Access tokens: ours are accepted, and nothing else is."""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from time import time
from typing import Any
from uuid import UUID, uuid4

import pytest
from httpx import AsyncClient
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from app.config import Settings
from app.core.exceptions import TokenExpired, TokenInvalid
from app.core.security import ALGORITHM, LONGEST_TOKEN, AccessTokens, key_id
from app.models import Role
from tests.factories import Factory
from tests.faults.support import changed

CLAIMS = ("iss", "aud", "sub", "tenant_id", "role", "sid", "jti", "iat", "nbf", "exp")
OTHER_SECRET = "another secret, which is as long as it has to be"


@pytest.fixture(scope="module")
def tokens(settings: Settings) -> AccessTokens:
    return AccessTokens(settings)


@pytest.fixture(scope="module")
def secret(settings: Settings) -> str:
    return settings.secret_key.get_secret_value()


def signing_key(secret: str) -> OctKey:
    return OctKey.import_key(hashlib.sha256(b"access-token:" + secret.encode()).digest())


def good_claims(**changes: Any) -> dict[str, Any]:
    now = int(time())
    ids = {name: str(uuid4()) for name in ("sub", "tenant_id", "sid", "jti")}
    claims = {"iss": "saas-platform", "aud": "saas-platform-api", **ids, "role": "admin", "iat": now, "nbf": now, "exp": now + 60}
    return {name: value for name, value in {**claims, **changes}.items() if value is not None}


def signed(secret: str, claims: Mapping[str, Any], **header: Any) -> str:
    """Sign claims as we do, save for what the header says otherwise."""
    complete = {"alg": ALGORITHM, "typ": "JWT", "kid": key_id(secret), **header}
    complete = {name: value for name, value in complete.items() if value is not None}
    return jwt.encode(complete, dict(claims), signing_key(secret), algorithms=[complete["alg"]])


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(value if isinstance(value, bytes) else json.dumps(value).encode()).rstrip(b"=").decode()


# ─── What is accepted ────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_issued_is_accepted_and_says_who_it_is(tokens: AccessTokens) -> None:
    user, tenant, session = uuid4(), uuid4(), uuid4()
    claims = tokens.verify(tokens.issue(user_id=user, tenant_id=tenant, session_id=session, role="member"))
    assert (claims.user_id, claims.tenant_id, claims.session_id, claims.role) == (user, tenant, session, "member")
    assert 0 <= int(time()) + 30 * 60 - claims.expires_at <= 5


def test_a_token_has_every_claim_of_the_contract(tokens: AccessTokens, secret: str) -> None:
    token = tokens.issue(user_id=uuid4(), tenant_id=uuid4(), session_id=uuid4(), role="viewer")
    decoded = jwt.decode(token, signing_key(secret), algorithms=[ALGORITHM])
    assert set(decoded.claims) == set(CLAIMS)
    assert decoded.header == {"alg": "HS256", "typ": "JWT", "kid": key_id(secret)}
    assert decoded.claims["exp"] - decoded.claims["iat"] == 30 * 60


def test_each_token_has_an_identifier_of_its_own(tokens: AccessTokens, secret: str) -> None:
    who = {"user_id": uuid4(), "tenant_id": uuid4(), "session_id": uuid4()}
    found = {jwt.decode(tokens.issue(**who, role="admin"), signing_key(secret), algorithms=[ALGORITHM]).claims["jti"] for _ in range(10)}
    assert len(found) == 10


def test_the_helper_of_these_tests_makes_good_tokens(tokens: AccessTokens, secret: str) -> None:
    """Else every refusal below would prove nothing."""
    assert tokens.verify(signed(secret, good_claims())).role == "admin"


# ─── What is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


def unsigned(secret: str) -> str:
    return f"{encoded({'alg': 'none', 'typ': 'JWT', 'kid': key_id(secret)})}.{encoded(good_claims())}."


def with_altered_payload(secret: str) -> str:
    header, _, signature = signed(secret, good_claims(role="viewer")).split(".")
    return f"{header}.{encoded(good_claims(role='admin'))}.{signature}"


def signed_by_an_rsa_key(secret: str) -> str:
    return jwt.encode({"alg": "RS256", "kid": key_id(secret)}, good_claims(), RSAKey.generate_key(2048), algorithms=["RS256"])


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


FORGED: dict[str, Callable[[str], str]] = {
    "nothing": lambda secret: "",
    "alg none": unsigned,
    "alg none, with the signature of another": lambda secret: unsigned(secret) + signed(secret, good_claims()).split(".")[2],
    "alg None in capitals": lambda secret: f"{encoded({'alg': 'NONE', 'kid': key_id(secret)})}.{encoded(good_claims())}.",
    "another key": lambda secret: signed(OTHER_SECRET, good_claims()),
    "another key under our name": lambda secret: signed(OTHER_SECRET, good_claims(), kid=key_id(secret)),
    "the secret itself as the key": lambda secret: jwt.encode({"alg": "HS256", "kid": key_id(secret)}, good_claims(), OctKey.import_key(secret)),
    "HS512": lambda secret: signed(secret, good_claims(), alg="HS512"),
    "HS384": lambda secret: signed(secret, good_claims(), alg="HS384"),
    "RS256": signed_by_an_rsa_key,
    "no kid": lambda secret: signed(secret, good_claims(), kid=None),
    "unknown kid": lambda secret: signed(secret, good_claims(), kid="0000000000000000"),
    "a kid that is a path": lambda secret: signed(secret, good_claims(), kid="../../dev/null"),
    "a kid that is a list": lambda secret: f"{encoded({'alg': 'HS256', 'kid': ['x']})}.{encoded(good_claims())}.{encoded(b'x' * 32)}",
    "a kid that is an object": lambda secret: f"{encoded({'alg': 'HS256', 'kid': {}})}.{encoded(good_claims())}.{encoded(b'x' * 32)}",
    "an unknown crit": lambda secret: f"{encoded({'alg': 'HS256', 'kid': key_id(secret), 'crit': ['x'], 'x': 1})}.{encoded(good_claims())}.{encoded(b'x')}",
    "altered payload": with_altered_payload,
    "cut signature": lambda secret: signed(secret, good_claims())[:-4],
    "no signature": lambda secret: signed(secret, good_claims()).rpartition(".")[0] + ".",
    "two parts": lambda secret: signed(secret, good_claims()).rpartition(".")[0],
    "five parts": lambda secret: "a.b.c.d.e",
    "dots alone": lambda secret: "..",
    "a header that is no object": lambda secret: f"{encoded([1])}.{encoded(good_claims())}.{encoded(b'x')}",
    "a header that is no JSON": lambda secret: f"{encoded(b'{')}.{encoded(good_claims())}.{encoded(b'x')}",
    "a header that is no UTF-8": lambda secret: f"{encoded(bytes([255, 254]))}.{encoded(good_claims())}.{encoded(b'x')}",
    "no base64": lambda secret: "%%%.%%%.%%%",
    "deep nesting in the header": lambda secret: f"{encoded(nested(1500))}.{encoded(good_claims())}.{encoded(b'x')}",
    "100 kB": lambda secret: signed(secret, good_claims(padding="x" * 100_000)),
    "100 kB of dots": lambda secret: "." * 100_000,
    "non-ASCII": lambda secret: signed(secret, good_claims())[:-1] + "é",
    "a lone surrogate": lambda secret: signed(secret, good_claims())[:-1] + "\ud800",
    "NUL": lambda secret: signed(secret, good_claims()) + "\0",
    "another issuer": lambda secret: signed(secret, good_claims(iss="somebody-else")),
    "another audience": lambda secret: signed(secret, good_claims(aud="another-api")),
    "several audiences without ours": lambda secret: signed(secret, good_claims(aud=["a", "b"])),
    "not yet": lambda secret: signed(secret, good_claims(nbf=int(time()) + 3600)),
    "issued in the future": lambda secret: signed(secret, good_claims(iat=int(time()) + 3600)),
    "an exp that is text": lambda secret: signed(secret, good_claims(exp="tomorrow")),
    "an exp that is a list": lambda secret: signed(secret, good_claims(exp=[1])),
    "a user that is no UUID": lambda secret: signed(secret, good_claims(sub="admin")),
    "a user that is a number": lambda secret: signed(secret, good_claims(sub=1)),
    "a tenant that is no UUID": lambda secret: signed(secret, good_claims(tenant_id="acme")),
    "a tenant that is a list": lambda secret: signed(secret, good_claims(tenant_id=[str(uuid4())])),
    "a session that is no UUID": lambda secret: signed(secret, good_claims(sid="x")),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_token_that_is_not_ours_is_refused(tokens: AccessTokens, secret: str, kind: str) -> None:
    with pytest.raises(TokenInvalid) as refused:
        tokens.verify(FORGED[kind](secret))
    assert not isinstance(refused.value, TokenExpired)


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_claim_is_demanded(tokens: AccessTokens, secret: str, claim: str) -> None:
    with pytest.raises(TokenInvalid):
        tokens.verify(signed(secret, good_claims(**{claim: None})))


@pytest.mark.parametrize("seconds", [-1, -3600, -(10**9)])
def test_an_expired_token_is_refused_as_such(tokens: AccessTokens, secret: str, seconds: int) -> None:
    now = int(time()) + seconds
    with pytest.raises(TokenExpired):
        tokens.verify(signed(secret, good_claims(exp=now, nbf=now - 60, iat=now - 60)))


def test_a_token_expires_though_it_was_accepted_before(tokens: AccessTokens, secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    token = signed(secret, good_claims())
    tokens.verify(token)
    monkeypatch.setattr("app.core.security.time", lambda: time() + 61)
    with pytest.raises(TokenExpired):
        tokens.verify(token)


@hypothesis_settings(max_examples=300, deadline=None)
@given(position=st.integers(0, 10_000), character=st.sampled_from("ABCXYZabcxyz0189-_.=%"))
def test_no_character_can_be_changed(tokens: AccessTokens, secret: str, position: int, character: str) -> None:
    token = tokens.issue(user_id=UUID(int=1), tenant_id=UUID(int=2), session_id=UUID(int=3), role="viewer")
    position %= len(token)
    altered = token[:position] + character + token[position + 1 :]
    try:
        claims = tokens.verify(altered)
    except TokenInvalid:
        return
    # The last character of a base64 text has bits that mean nothing; what the token says is the same.
    assert altered == token or position == len(token) - 1
    assert claims.role == "viewer"


@hypothesis_settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=200) | st.lists(st.text(alphabet="ABCabc019-_", max_size=60), min_size=1, max_size=5).map(".".join))
def test_no_text_at_all_does_anything_but_be_refused(tokens: AccessTokens, text: str) -> None:
    with pytest.raises(TokenInvalid):
        tokens.verify(text)


def test_the_longest_token_that_is_looked_at(tokens: AccessTokens, secret: str) -> None:
    assert len(tokens.issue(user_id=uuid4(), tenant_id=uuid4(), session_id=uuid4(), role="member")) < LONGEST_TOKEN / 4
    long = signed(secret, good_claims(padding="x" * 2_000))
    assert tokens.verify(long).role == "admin"


# ─── Keys ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_keys_are_rotated_without_logging_anybody_out(settings: Settings, secret: str) -> None:
    before = AccessTokens(settings)
    rotated = AccessTokens(changed(settings, secret_key=OTHER_SECRET, secret_keys_previous=(secret,)))
    later = AccessTokens(changed(settings, secret_key=OTHER_SECRET))
    old = before.issue(user_id=uuid4(), tenant_id=uuid4(), session_id=uuid4(), role="member")
    assert rotated.verify(old).role == "member"
    new = rotated.issue(user_id=uuid4(), tenant_id=uuid4(), session_id=uuid4(), role="member")
    assert later.verify(new).role == "member"
    with pytest.raises(TokenInvalid):
        later.verify(old)
    with pytest.raises(TokenInvalid):
        before.verify(new)


def test_the_name_of_a_key_tells_nothing_of_it(secret: str) -> None:
    assert len(key_id(secret)) == 16
    assert key_id(secret) != key_id(OTHER_SECRET)
    assert secret not in key_id(secret)


# ─── On the wire ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["alg none", "another key", "HS512", "altered payload", "deep nesting in the header", "100 kB", "a kid that is an object"])
async def test_a_forged_token_is_401_for_the_client(client: AsyncClient, factory: Factory, secret: str, kind: str) -> None:
    tenant = await factory.tenant()
    answer = await client.get("/api/v1/projects", headers={"X-Tenant-Slug": tenant.slug, "Authorization": f"Bearer {FORGED[kind](secret)}"})
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")
    assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


async def test_a_non_ascii_token_is_401_for_the_client(client: AsyncClient, factory: Factory) -> None:
    tenant = await factory.tenant()
    headers = {b"X-Tenant-Slug": tenant.slug.encode(), b"Authorization": "Bearer ä.ö.ü".encode()}
    answer = await client.get("/api/v1/projects", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")


async def test_an_expired_token_is_401_of_its_own_kind(client: AsyncClient, factory: Factory, secret: str) -> None:
    person = await factory.person()
    now = int(time()) - 10
    ids = {"sub": str(person.user.id), "tenant_id": str(person.tenant.id), "sid": str(person.session_id)}
    token = signed(secret, good_claims(**ids, exp=now, iat=now - 60, nbf=now - 60))
    answer = await client.get("/api/v1/projects", headers={**person.headers, "Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.json()["code"]) == (401, "token_expired")
    assert "WWW-Authenticate" in answer.headers


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "bearer    ", "Basic YTpi", "Token x"])
async def test_without_a_token_it_is_401_not_authenticated(client: AsyncClient, factory: Factory, header: str) -> None:
    tenant = await factory.tenant()
    answer = await client.get("/api/v1/projects", headers={"X-Tenant-Slug": tenant.slug, "Authorization": header})
    assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_the_role_is_the_users_not_the_tokens(client: AsyncClient, factory: Factory, settings: Settings) -> None:
    """A token says the role of when it was made; what counts is the role of now."""
    viewer = await factory.person(role=Role.VIEWER)
    token = AccessTokens(settings).issue(user_id=viewer.user.id, tenant_id=viewer.tenant.id, session_id=viewer.session_id, role="admin")
    answer = await client.post("/api/v1/projects", headers={**viewer.headers, "Authorization": f"Bearer {token}"}, json={"name": "x"})
    assert answer.status_code == 403
