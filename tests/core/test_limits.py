"""Rate limits: whose tokens a request takes, and what the answer says of them."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import cast
from uuid import uuid4

import hiredis
import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response

from app.api.deps import ReadAsViewer
from app.config import Settings, TierLimits, default_tiers
from app.core.limits import limit_headers, policy_of
from app.core.networks import network_of
from app.core.redis import PackedCall
from app.core.security import AccessTokens, Claims
from app.core.token_bucket import Bucket, BucketState
from app.models import Role
from app.services.container import Services
from tests.clients import client_of
from tests.factories import PASSWORD, Factory
from tests.faults.support import changed, running

HEADERS = ("RateLimit-Policy", "RateLimit", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
ITEM = re.compile(r'"(\w+)";r=(\d+);t=(\d+)')
POLICY = re.compile(r'"(\w+)";q=(\d+);w=(\d+)')


@pytest.fixture(scope="module")
async def limited(settings: Settings) -> AsyncIterator[FastAPI]:
    """The application with the limits for strangers that are the default, and two endpoints that fail."""
    defaults = Settings(_env_file=None)
    own = changed(settings, anonymous_requests_per_minute=defaults.anonymous_requests_per_minute, anonymous_burst=defaults.anonymous_burst)

    def add_endpoints(app: FastAPI) -> None:
        @app.get("/api/v1/crash")
        async def crash(caller: ReadAsViewer) -> None:
            """Fail."""
            raise RuntimeError("unforeseen")

    async with running(own, add_endpoints) as (app, _):
        yield app


@pytest.fixture
async def stranger(limited: FastAPI) -> AsyncIterator[AsyncClient]:
    """A client from a network that nobody else is in."""
    async with client_of(limited) as client:
        yield client


def remaining(response: Response) -> dict[str, int]:
    """Return what the RateLimit header says is left of each bucket."""
    return {name: int(left) for name, left, _ in ITEM.findall(response.headers["RateLimit"])}


def policy(response: Response) -> dict[str, tuple[int, int]]:
    """Return burst and window of each bucket."""
    return {name: (int(quota), int(window)) for name, quota, window in POLICY.findall(response.headers["RateLimit-Policy"])}


# ─── Headers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_headers_are_those_of_the_draft_and_the_widespread_ones(stranger: AsyncClient, factory: Factory) -> None:
    person = await factory.person(await factory.tenant(rate_limit_per_minute=120, rate_limit_burst=60))
    before = time.time()
    answer = await stranger.get("/api/v1/tenant", headers=person.headers)
    assert answer.headers["RateLimit-Policy"] == '"tenant";q=60;w=30, "user";q=30;w=30'
    assert answer.headers["RateLimit"] == '"tenant";r=59;t=1, "user";r=29;t=1'
    # The bucket that is nearest to its end.
    assert answer.headers["X-RateLimit-Limit"] == "30"
    assert answer.headers["X-RateLimit-Remaining"] == "29"
    assert int(before) + 1 <= int(answer.headers["X-RateLimit-Reset"]) <= time.time() + 2


def test_headers_round_times_up_and_name_the_bucket_that_ends_first() -> None:
    tenant, user = Bucket("tenant", "t", 7, 10), Bucket("user", "u", 60, 30)
    headers = limit_headers(policy_of([tenant, user]), [BucketState(tenant, 0, 8_571_429, 85_714_286), BucketState(user, 3, 0, 26_000_001)])
    assert headers["RateLimit-Policy"] == '"tenant";q=10;w=86, "user";q=30;w=30'
    assert headers["RateLimit"] == '"tenant";r=0;t=86, "user";r=3;t=27'
    assert headers["X-RateLimit-Limit"] == "10"
    assert headers["X-RateLimit-Remaining"] == "0"


@pytest.mark.parametrize(
    ("method", "path", "role", "status"),
    [
        ("GET", "/api/v1/projects", Role.VIEWER, 200),
        ("GET", "/api/v1/projects/0198c0de-0000-7000-8000-000000000000", Role.VIEWER, 404),
        ("GET", "/api/v1/projects/nonsense", Role.VIEWER, 422),
        ("GET", "/api/v1/nowhere", Role.VIEWER, 404),
        ("PUT", "/api/v1/projects", Role.VIEWER, 405),
        ("POST", "/api/v1/projects", Role.VIEWER, 403),
        ("GET", "/api/v1/crash", Role.VIEWER, 500),
    ],
)
async def test_every_answer_of_a_limited_path_says_what_is_left(
    stranger: AsyncClient, factory: Factory, method: str, path: str, role: Role, status: int
) -> None:
    person = await factory.person(role=role)
    answer = await stranger.request(method, path, headers=person.headers, json={"name": "x"} if method == "POST" else None)
    assert answer.status_code == status, answer.text
    assert all(name in answer.headers for name in HEADERS)
    assert set(remaining(answer)) == {"tenant", "user"}


async def test_a_refused_stranger_sees_the_address_bucket(stranger: AsyncClient, factory: Factory) -> None:
    tenant = await factory.tenant()
    answer = await stranger.get("/api/v1/projects", headers={"X-Tenant-Slug": tenant.slug})
    assert answer.status_code == 401
    assert remaining(answer) == {"address": 29}


@pytest.mark.parametrize("path", ["/", "/health", "/health/live", "/health/ready", "/docs", "/redoc", "/openapi.json"])
async def test_what_belongs_to_no_tenant_is_not_limited(stranger: AsyncClient, path: str) -> None:
    for _ in range(40):
        answer = await stranger.get(path)
        assert answer.status_code == (307 if path == "/" else 200)
        assert not any(name in answer.headers for name in HEADERS)
    signing_in = await stranger.post("/api/v1/auth/login", json={})
    assert remaining(signing_in) == {"address": 29}


# ─── Sizes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("tier", "tenant", "user"),
    [
        ("free", (60, 30), (30, 30)),
        ("basic", (150, 15), (75, 15)),
        ("premium", (600, 12), (300, 12)),
        ("enterprise", (2400, 12), (1200, 12)),
    ],
)
async def test_each_tier_has_its_limits_and_a_user_half_of_them(
    stranger: AsyncClient, factory: Factory, tier: str, tenant: tuple[int, int], user: tuple[int, int]
) -> None:
    made = await factory.tenant(subscription_tier=tier, rate_limit_per_minute=None, rate_limit_burst=None)
    answer = await stranger.get("/api/v1/tenant", headers=(await factory.person(made)).headers)
    assert policy(answer) == {"tenant": tenant, "user": user}


def test_the_tiers_are_those_of_the_contract() -> None:
    assert {tier: (limits.requests_per_minute, limits.burst) for tier, limits in default_tiers().items()} == {
        "free": (120, 60),
        "basic": (600, 150),
        "premium": (3_000, 600),
        "enterprise": (12_000, 2_400),
    }


async def test_tiers_are_a_setting(settings: Settings, factory: Factory) -> None:
    tiers = {**default_tiers(), "free": TierLimits(requests_per_minute=600, burst=300, users=1, projects=1, resources=1, audit_days=1)}
    tenant = await factory.tenant(rate_limit_per_minute=None, rate_limit_burst=None)
    async with running(changed(settings, tiers=tiers)) as (_, client):
        answer = await client.get("/api/v1/tenant", headers=(await factory.person(tenant)).headers)
    assert policy(answer) == {"tenant": (300, 30), "user": (150, 30)}


@pytest.mark.parametrize(
    ("rate", "burst", "tenant", "user"),
    [
        (1_000, 500, (500, 30), (250, 30)),
        # Never less than 60 a minute and 30 at once, though the tenant itself has less.
        (10, 5, (5, 30), (30, 30)),
        (None, 5, (5, 3), (30, 30)),
        (600, None, (60, 6), (30, 6)),
        (1, 1, (1, 60), (30, 30)),
    ],
)
async def test_an_override_counts_instead_of_the_tier(
    stranger: AsyncClient, factory: Factory, rate: int | None, burst: int | None, tenant: tuple[int, int], user: tuple[int, int]
) -> None:
    made = await factory.tenant(rate_limit_per_minute=rate, rate_limit_burst=burst)
    answer = await stranger.get("/api/v1/tenant", headers=(await factory.person(made)).headers)
    assert policy(answer) == {"tenant": tenant, "user": user}


# ─── Refusals ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_over_the_limit_is_429_with_everything_that_a_client_needs(stranger: AsyncClient, factory: Factory) -> None:
    person = await factory.person(await factory.tenant(rate_limit_per_minute=6, rate_limit_burst=2))
    answers = [await stranger.get("/api/v1/tenant", headers=person.headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    refused = answers[-1]
    assert refused.headers["Content-Type"] == "application/problem+json"
    problem = refused.json()
    assert (problem["code"], problem["status"], problem["title"]) == ("rate_limited", 429, "Too Many Requests")
    assert problem["request_id"] == refused.headers["X-Request-ID"]
    assert problem["instance"] == "/api/v1/tenant"
    assert 5 <= int(refused.headers["Retry-After"]) <= 10
    assert all(len(refused.headers.get_list(name)) == 1 for name in HEADERS)
    assert remaining(refused) == {"tenant": 0, "user": 28}


async def test_a_refused_request_takes_no_token_from_either_bucket(stranger: AsyncClient, factory: Factory) -> None:
    person = await factory.person(await factory.tenant(rate_limit_per_minute=1, rate_limit_burst=3))
    for _ in range(3):
        assert (await stranger.get("/api/v1/tenant", headers=person.headers)).status_code == 200
    for _ in range(25):
        refused = await stranger.get("/api/v1/tenant", headers=person.headers)
        assert refused.status_code == 429
        # The tenant's bucket is empty; the user's fills up again.
        assert remaining(refused)["tenant"] == 0
        assert remaining(refused)["user"] >= 27


async def test_one_tenant_at_its_limit_slows_no_other(stranger: AsyncClient, factory: Factory) -> None:
    busy, quiet = [await factory.person(await factory.tenant(rate_limit_per_minute=1, rate_limit_burst=1)) for _ in range(2)]
    assert [(await stranger.get("/api/v1/tenant", headers=busy.headers)).status_code for _ in range(2)] == [200, 429]
    assert (await stranger.get("/api/v1/tenant", headers=quiet.headers)).status_code == 200


async def test_after_retry_after_a_request_is_really_admitted(stranger: AsyncClient, factory: Factory) -> None:
    person = await factory.person(await factory.tenant(rate_limit_per_minute=60, rate_limit_burst=1))
    await stranger.get("/api/v1/tenant", headers=person.headers)
    refused = await stranger.get("/api/v1/tenant", headers=person.headers)
    assert refused.status_code == 429
    await asyncio.sleep(int(refused.headers["Retry-After"]))
    assert (await stranger.get("/api/v1/tenant", headers=person.headers)).status_code == 200


# ─── Strangers ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/api/v1/auth/login", "/api/v1/auth/register"])
async def test_calls_without_a_token_have_30_at_once_and_60_a_minute_for_each_address(stranger: AsyncClient, path: str) -> None:
    answers = [await stranger.post(path, json={}) for _ in range(60)]
    assert policy(answers[0]) == {"address": (30, 30)}
    statuses = [answer.status_code for answer in answers]
    assert statuses[:30] == [422] * 30
    # A token comes in with each second that the calls take.
    assert statuses[30:].count(429) >= 10
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["Retry-After"] == "1"
    assert refused.json()["code"] == "rate_limited"


async def test_addresses_are_limited_apart(limited: FastAPI, stranger: AsyncClient) -> None:
    for _ in range(31):
        await stranger.post("/api/v1/auth/login", json={})
    async with client_of(limited) as neighbour:
        assert remaining(await neighbour.post("/api/v1/auth/login", json={})) == {"address": 29}


async def test_all_addresses_of_a_network_are_one_stranger(limited: FastAPI) -> None:
    """Whoever has one IPv6 address has 2^64 of them; and an IPv4 address may be written as one."""
    network, address = f"2001:db8:{uuid4().hex[:4]}:{uuid4().hex[:4]}", f"192.0.2.{uuid4().int % 250}"
    for clients in ([f"{network}::{number:x}" for number in range(4)], [address, f"::ffff:{address}", f"::FFFF:{address}"]):
        left = []
        for client in clients:
            async with client_of(limited, client) as anybody:
                left.append(remaining(await anybody.get("/api/v1/auth/captcha"))["address"])
        assert left == list(range(29, 29 - len(clients), -1))


async def test_login_with_a_token_still_counts_by_address(stranger: AsyncClient, factory: Factory) -> None:
    """Otherwise one account would be enough to try passwords at the tenant's rate."""
    person = await factory.person()
    body = {"email": person.user.email, "password": "wrong password", "tenant_slug": person.tenant.slug}
    answer = await stranger.post("/api/v1/auth/login", headers=person.headers, json=body)
    assert answer.status_code == 401
    assert remaining(answer) == {"address": 29}


async def test_signing_in_takes_a_token_whether_it_succeeds_or_not(stranger: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    body = {"email": person.user.email, "password": PASSWORD, "tenant_slug": person.tenant.slug}
    assert remaining(await stranger.post("/api/v1/auth/login", json=body)) == {"address": 29}
    assert remaining(await stranger.post("/api/v1/auth/login", json={**body, "password": "wrong password"})) == {"address": 28}


@pytest.mark.parametrize("kind", ["none", "forged", "foreign", "expired", "garbage", "basic"])
async def test_a_stranger_never_spends_a_tenants_tokens(stranger: AsyncClient, factory: Factory, services: Services, settings: Settings, kind: str) -> None:
    tenant = await factory.tenant(rate_limit_per_minute=1, rate_limit_burst=50)
    owner, foreigner = await factory.person(tenant), await factory.person()
    forging = AccessTokens(changed(settings, secret_key="another key, which is not ours, of some length"))
    expired = AccessTokens(settings)
    expired.lifetime = -10
    named = {"user_id": owner.user.id, "tenant_id": tenant.id, "session_id": owner.session_id, "role": "admin"}
    authorization = {
        "none": {},
        "forged": {"Authorization": f"Bearer {forging.issue(**named)}"},  # type: ignore[arg-type]  # a mapping of mixed values
        "foreign": {"Authorization": f"Bearer {foreigner.token}"},
        "expired": {"Authorization": f"Bearer {expired.issue(**named)}"},  # type: ignore[arg-type]  # a mapping of mixed values
        "garbage": {"Authorization": "Bearer garbage"},
        "basic": {"Authorization": "Basic YTpi"},
    }[kind]
    for _ in range(10):
        answer = await stranger.get("/api/v1/tenant", headers={"X-Tenant-Slug": tenant.slug, **authorization})
        assert answer.status_code == (403 if kind == "foreign" else 401)
        assert set(remaining(answer)) == {"address"}
    assert cast("bytes | None", await services.redis.client.get(f"{{t:{tenant.id}}}:bucket")) is None
    assert remaining(await stranger.get("/api/v1/tenant", headers=owner.headers))["tenant"] == 49


async def test_a_foreign_token_spends_none_of_its_own_tenants_tokens_elsewhere(stranger: AsyncClient, factory: Factory) -> None:
    foreigner, tenant = await factory.person(await factory.tenant(rate_limit_per_minute=1, rate_limit_burst=50)), await factory.tenant()
    await stranger.get("/api/v1/tenant", headers={**foreigner.headers, "X-Tenant-Slug": tenant.slug})
    assert remaining(await stranger.get("/api/v1/tenant", headers=foreigner.headers))["tenant"] == 49


END_SESSION, DELETE_USER = "UPDATE sessions SET revoked_at = now() WHERE user_id = :id", "DELETE FROM users WHERE id = :id"


@pytest.mark.parametrize("end", [END_SESSION, DELETE_USER], ids=["revoked", "deleted"])
async def test_whose_session_has_ended_spends_no_more_than_one_of_the_tenants_tokens(stranger: AsyncClient, factory: Factory, end: str) -> None:
    tenant = await factory.tenant(rate_limit_per_minute=1, rate_limit_burst=50)
    colleague, former = await factory.person(tenant), await factory.person(tenant)
    await factory.run(end, id=former.user.id)
    first = await stranger.get("/api/v1/tenant", headers=former.headers)
    assert (first.status_code, remaining(first)["tenant"]) == (401, 49)
    for path in ["/api/v1/tenant", "/api/v1/nowhere"] * 5:
        answer = await stranger.get(path, headers=former.headers)
        assert (answer.status_code, set(remaining(answer))) == (404 if "nowhere" in path else 401, {"address"})
    assert answer.headers["X-RateLimit-Limit"] == "30"
    refused = await stranger.get("/api/v1/tenant", headers=former.headers)
    assert refused.json()["code"] == "token_revoked"
    assert remaining(await stranger.get("/api/v1/tenant", headers=colleague.headers))["tenant"] == 48


async def test_whose_session_has_ended_is_limited_by_address(stranger: AsyncClient, factory: Factory) -> None:
    former = await factory.person()
    await factory.run(END_SESSION, id=former.user.id)
    statuses = [(await stranger.get("/api/v1/tenant", headers=former.headers)).status_code for _ in range(60)]
    assert statuses[:31] == [401] * 31
    assert statuses.count(429) >= 10


async def test_a_new_session_of_somebody_whose_other_one_has_ended_is_the_tenants_again(stranger: AsyncClient, factory: Factory) -> None:
    former = await factory.person()
    await factory.run(END_SESSION, id=former.user.id)
    assert (await stranger.get("/api/v1/tenant", headers=former.headers)).status_code == 401
    anew = await factory.sign_in(former.tenant, former.user)
    answer = await stranger.get("/api/v1/tenant", headers=anew.headers)
    assert (answer.status_code, set(remaining(answer))) == (200, {"tenant", "user"})


async def test_a_session_that_outlives_its_users_suspension_is_good_again(stranger: AsyncClient, factory: Factory) -> None:
    """Through the API a deactivation ends all sessions; an operator's UPDATE does not."""
    person = await factory.person()
    for is_active, status in ((False, 401), (True, 200)):
        await factory.run("UPDATE users SET is_active = :is_active WHERE id = :id", is_active=is_active, id=person.user.id)
        assert (await stranger.get("/api/v1/tenant", headers=person.headers)).status_code == status


async def test_a_token_that_names_somebody_elses_session_spoils_it_for_nobody(stranger: AsyncClient, factory: Factory, services: Services) -> None:
    person = await factory.person()
    other = await factory.person(person.tenant)
    wrong = services.tokens.issue(user_id=person.user.id, tenant_id=person.tenant.id, session_id=other.session_id, role=Role.ADMIN)
    assert (await stranger.get("/api/v1/tenant", headers={**person.headers, "Authorization": f"Bearer {wrong}"})).status_code == 401
    assert (await stranger.get("/api/v1/tenant", headers=other.headers)).status_code == 200


@pytest.mark.parametrize("kind", ["unknown", "suspended", "unnamed"])
async def test_asking_for_a_tenant_that_cannot_be_used_is_limited_by_address(stranger: AsyncClient, factory: Factory, kind: str) -> None:
    """Each such request is a query, so it must not be the one that anybody may make without end."""
    slug = "no-such-tenant-anywhere" if kind == "unknown" else (await factory.tenant(is_active=False)).slug
    headers = {} if kind == "unnamed" else {"X-Tenant-Slug": slug}
    answers = [await stranger.get("/api/v1/projects", headers=headers) for _ in range(60)]
    assert {answer.status_code for answer in answers[:30]} == {{"unknown": 404, "suspended": 403, "unnamed": 400}[kind]}
    assert remaining(answers[0]) == {"address": 29}
    assert [answer.status_code for answer in answers].count(429) >= 10


# ─── Keys ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_all_keys_of_one_call_share_a_hash_tag(
    client: AsyncClient, address: str, factory: Factory, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis Cluster refuses a script whose keys lie on several nodes."""
    calls: list[list[str]] = []
    run = services.redis.run_packed

    async def remember(call: PackedCall) -> object:
        reader = hiredis.Reader(encoding="utf-8")
        reader.feed(call.packed)
        _, _, count, *arguments = cast("list[str]", reader.gets())
        calls.append(arguments[: int(count)])
        return await run(call)

    monkeypatch.setattr(services.redis, "run_packed", remember)
    person = await factory.person()
    await client.get("/api/v1/tenant", headers=person.headers)
    await client.post("/api/v1/auth/login", json={})
    assert [len(keys) for keys in calls] == [4, 1]
    tags = [{re.findall(r"\{([^}]+)\}", key)[0] for key in keys} for keys in calls]
    assert tags == [{f"t:{person.tenant.id}"}, {f"a:{network_of(address)}"}]


async def test_only_so_many_callers_are_remembered_and_the_oldest_is_forgotten(factory: Factory, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.core.limits.REMEMBERED_CALLERS", 3)
    services = Services.from_settings(settings)
    tenant = await factory.tenant()
    callers = [Claims(uuid4(), tenant.id, uuid4(), Role.MEMBER, 0) for _ in range(5)]
    for caller in (*callers, callers[-1]):
        await services.limiter.admit(tenant, caller)  # type: ignore[arg-type]  # has the fields
    assert list(services.limiter._of_callers) == callers[-3:]
    await services.close()


async def test_users_of_one_tenant_share_its_bucket_and_not_each_others(stranger: AsyncClient, factory: Factory) -> None:
    tenant = await factory.tenant(rate_limit_per_minute=1, rate_limit_burst=100)
    one, other = await factory.person(tenant), await factory.person(tenant, Role.VIEWER)
    assert remaining(await stranger.get("/api/v1/tenant", headers=one.headers)) == {"tenant": 99, "user": 49}
    assert remaining(await stranger.get("/api/v1/tenant", headers=other.headers)) == {"tenant": 98, "user": 49}
