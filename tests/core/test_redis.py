"""The circuit breaker: Redis refused, hanging, emptied, restarted, demoted, or not ours to use."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from httpx import URL, AsyncClient, Response
from redis.asyncio import Redis

from app.config import Settings
from app.core.redis import PROBE_SECONDS, PackedCall, RedisAway, RedisGateway, Script
from app.services.container import Services
from app.utils.logging import request_state
from deploy.local.memory import free_port
from tests.factories import PASSWORD, Factory, Person
from tests.faults.support import HASTY, Proxy, Valkey, changed, eventually, proxy_to, running, valkey


@pytest.fixture(scope="module")
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
async def black_hole() -> AsyncIterator[tuple[Proxy, str]]:
    """A server that takes every connection and never answers, and its URL."""
    async with proxy_to(f"redis://127.0.0.1:{free_port()}/0") as (proxy, url):
        proxy.freeze()
        yield proxy, url


@asynccontextmanager
async def gateway(url: str, seconds: float = HASTY) -> AsyncIterator[RedisGateway]:
    made = RedisGateway(url, timeout=seconds, max_connections=5)
    try:
        yield made
    finally:
        await made.close()


async def ping(client: Redis) -> Any:
    return await client.ping()


async def is_refused(made: RedisGateway) -> bool:
    try:
        await made.call(ping)
    except RedisAway:
        return True
    return False


async def wait_until_back(made: RedisGateway) -> None:
    async def back() -> bool:
        return not made.is_away

    await eventually(back)


# ─── The breaker by itself ───────────────────────────────────────────────────────────────────────────────────────────


async def test_a_refused_connection_opens_the_breaker_at_once() -> None:
    async with gateway(f"redis://127.0.0.1:{free_port()}/0") as made:
        began = time.monotonic()
        assert await is_refused(made)
        assert made.is_away
        assert time.monotonic() - began < 1


async def test_a_hanging_server_costs_one_call_a_short_wait_and_the_following_ones_nothing(black_hole: tuple[Proxy, str]) -> None:
    proxy, url = black_hole
    async with gateway(url) as made:
        began = time.monotonic()
        assert await is_refused(made)
        first = time.monotonic() - began
        assert first < 1
        attempts = proxy.accepted
        began = time.monotonic()
        for _ in range(50):
            assert await is_refused(made)
        assert time.monotonic() - began < first
        assert proxy.accepted == attempts


async def test_calls_that_wait_at_once_wait_together(black_hole: tuple[Proxy, str]) -> None:
    """Not one after the other: the pool is smaller than the crowd."""
    _, url = black_hole
    async with gateway(url) as made:
        began = time.monotonic()
        assert all(await asyncio.gather(*(is_refused(made) for _ in range(40))))
        assert time.monotonic() - began < 10 * HASTY


async def test_while_the_breaker_is_open_only_the_probe_asks_the_server(black_hole: tuple[Proxy, str]) -> None:
    proxy, url = black_hole
    async with gateway(url) as made:
        await is_refused(made)
        proxy.accepted = 0
        deadline = time.monotonic() + 2.5 * PROBE_SECONDS
        calls = 0
        while time.monotonic() < deadline:
            assert await is_refused(made)
            calls += 1
            await asyncio.sleep(0.005)
        assert calls > 50
        assert 1 <= proxy.accepted <= 3


async def test_the_probe_closes_the_breaker_and_what_was_put_off_is_done_first(settings: Settings) -> None:
    async with proxy_to(settings.redis_url.get_secret_value()) as (proxy, url), gateway(url, seconds=0.5) as made:
        happened: list[str] = []

        async def returned() -> None:
            happened.append(f"back, {'open' if made.is_away else 'closed'}")

        made.when_back(returned)
        assert await made.call(ping) is True
        await proxy.refuse()
        assert await is_refused(made)
        assert await is_refused(made)
        assert happened == []
        await proxy.open()
        await wait_until_back(made)
        assert happened == ["back, open"]
        assert await made.call(ping) is True


async def test_the_breaker_stays_open_while_what_was_put_off_cannot_be_done(settings: Settings) -> None:
    async with gateway(settings.redis_url.get_secret_value(), seconds=2.0) as made:
        attempts = 0

        async def fail_once() -> None:
            nonlocal attempts
            attempts += 1
            assert made.is_away
            if attempts == 1:
                raise ConnectionError

        made.when_back(fail_once)
        made.failed(OSError())
        await wait_until_back(made)
        assert attempts == 2


async def test_a_mistake_of_ours_does_not_count_as_redis_being_away(settings: Settings) -> None:
    async with gateway(settings.redis_url.get_secret_value(), seconds=2.0) as made:
        with pytest.raises(ZeroDivisionError):
            await made.call(lambda _: asyncio.sleep(1 / 0))
        assert not made.is_away


async def test_a_caller_that_gives_up_does_not_open_the_breaker(own_valkey: Valkey) -> None:
    async with gateway(own_valkey.url, seconds=5.0) as made:
        assert await made.call(ping) is True
        own_valkey.freeze()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await made.call(ping)
        own_valkey.thaw()
        assert not made.is_away
        assert await made.call(lambda client: client.echo("mine")) == b"mine"


# ─── The application without Redis ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def person(factory: Factory) -> Person:
    return await factory.person(await factory.tenant(rate_limit_per_minute=1, rate_limit_burst=50))


def refused_url() -> str:
    return f"redis://127.0.0.1:{free_port()}/0"


async def ask(client: AsyncClient, person: Person, times: int) -> list[Response]:
    return [await client.get("/api/v1/projects", headers=person.headers) for _ in range(times)]


async def sign_in(client: AsyncClient, person: Person, times: int) -> list[Response]:
    body = {"email": person.user.email, "password": PASSWORD, "tenant_slug": person.tenant.slug}
    return [await client.post("/api/v1/auth/login", json=body) for _ in range(times)]


async def test_without_redis_each_process_limits_on_buckets_of_its_own(settings: Settings, person: Person) -> None:
    async with running(changed(settings, redis_url=refused_url())) as (_, client):
        began = time.monotonic()
        answers = await ask(client, person, 60)
        seconds = int(time.monotonic() - began) + 1
    # The user has 30 at once, and 60 a minute.
    statuses = [answer.status_code for answer in answers]
    assert statuses[:30] == [200] * 30
    assert statuses.count(429) >= 30 - seconds
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert re.match(r'"tenant";r=(20|1\d);t=\d+, "user";r=0;t=30', refused.headers["RateLimit"])
    assert refused.headers["Retry-After"] == "1"


async def test_without_redis_and_closed_nobody_is_admitted(settings: Settings, person: Person) -> None:
    async with running(changed(settings, redis_url=refused_url(), rate_limit_fallback="closed")) as (_, client):
        for answer in [*await ask(client, person, 2), *await sign_in(client, person, 2)]:
            assert (answer.status_code, answer.json()["code"]) == (503, "rate_limiter_unavailable")
            assert int(answer.headers["Retry-After"]) >= 1
        assert (await client.get("/health")).json()["status"] == "degraded"


async def test_without_redis_and_open_everybody_is_admitted_but_to_sign_in(settings: Settings, person: Person) -> None:
    own = changed(settings, redis_url=refused_url(), rate_limit_fallback="open", anonymous_requests_per_minute=1, anonymous_burst=3)
    async with running(own) as (_, client):
        answers = await ask(client, person, 60)
        assert {answer.status_code for answer in answers} == {200}
        assert "RateLimit" not in answers[-1].headers
        assert [answer.status_code for answer in await sign_in(client, person, 5)] == [200, 200, 200, 429, 429]
        registering = await client.post("/api/v1/auth/register", json={})
        assert registering.status_code == 429


@pytest.mark.parametrize("fallback", ["local", "open"])
async def test_without_redis_everything_else_works_as_ever(settings: Settings, factory: Factory, fallback: str) -> None:
    person = await factory.person()
    async with running(changed(settings, redis_url=refused_url(), rate_limit_fallback=fallback)) as (_, client):
        created = await client.post("/api/v1/projects", headers=person.headers, json={"name": "Without Redis"})
        assert created.status_code == 201
        assert (await client.get(created.headers["Location"], headers=person.headers)).json()["name"] == "Without Redis"
        assert (await client.get("/health")).json() == {
            "status": "degraded",
            "version": (await client.get("/openapi.json")).json()["info"]["version"],
            "checks": {"database": "up", "redis": "down"},
        }


async def test_a_hanging_redis_costs_one_request_and_the_following_ones_nothing(settings: Settings, factory: Factory, black_hole: tuple[Proxy, str]) -> None:
    proxy, url = black_hole
    person = await factory.person()
    project = await factory.project(person.tenant)
    async with running(changed(settings, redis_url=url, redis_timeout=HASTY)) as (_, client):
        began = time.monotonic()
        assert (await client.get(f"/api/v1/projects/{project.id}", headers=person.headers)).status_code == 200
        assert time.monotonic() - began < 1
        attempts, began = proxy.accepted, time.monotonic()
        for _ in range(20):
            assert (await client.get(f"/api/v1/projects/{project.id}", headers=person.headers)).status_code == 200
        # The probe, once a second, is all that may ask.
        assert proxy.accepted - attempts <= 1 + (time.monotonic() - began) / PROBE_SECONDS


async def test_a_redis_that_stops_in_the_middle_is_fallen_back_from_and_returned_to(settings: Settings, factory: Factory, own_valkey: Valkey) -> None:
    person = await factory.person(await factory.tenant(rate_limit_per_minute=1, rate_limit_burst=100))
    async with running(changed(settings, redis_url=own_valkey.url, redis_timeout=0.2)) as (app, client):
        services: Services = app.state.services
        assert (await ask(client, person, 10))[-1].headers["X-RateLimit-Remaining"] == "40"
        own_valkey.freeze()
        answers = await ask(client, person, 10)
        assert {answer.status_code for answer in answers} == {200}
        assert services.redis.is_away
        own_valkey.thaw()
        await wait_until_back(services.redis)
        # The bucket in Redis is as it was, save for what it did after we had stopped waiting for it.
        assert 38 <= int((await ask(client, person, 1))[0].headers["X-RateLimit-Remaining"]) <= 39


async def test_a_restarted_redis_is_used_again(settings: Settings, factory: Factory, own_valkey: Valkey) -> None:
    """Its scripts are gone then, and so are the buckets."""
    person = await factory.person()
    async with running(changed(settings, redis_url=own_valkey.url)) as (app, client):
        services: Services = app.state.services
        await ask(client, person, 3)
        own_valkey.stop()
        assert {answer.status_code for answer in await ask(client, person, 5)} == {200}
        assert services.redis.is_away
        own_valkey.start()
        await wait_until_back(services.redis)
        assert {answer.status_code for answer in await ask(client, person, 5)} == {200}
        assert not services.redis.is_away
        assert await own_valkey.run("EXISTS", f"{{t:{person.tenant.id}}}:bucket") == 1


async def test_a_restart_between_two_requests_fails_neither(settings: Settings, factory: Factory, own_valkey: Valkey) -> None:
    person = await factory.person()
    async with running(changed(settings, redis_url=own_valkey.url)) as (app, client):
        await ask(client, person, 3)
        own_valkey.stop()
        own_valkey.start()
        assert {answer.status_code for answer in await ask(client, person, 5)} == {200}
        services: Services = app.state.services
        await wait_until_back(services.redis)


@pytest.mark.parametrize("command", [("SCRIPT", "FLUSH"), ("FLUSHALL",)])
async def test_a_flushed_redis_goes_on_at_once(settings: Settings, factory: Factory, own_valkey: Valkey, command: tuple[str, ...]) -> None:
    person = await factory.person()
    async with running(changed(settings, redis_url=own_valkey.url)) as (app, client):
        await ask(client, person, 2)
        await own_valkey.run(*command)
        assert {answer.status_code for answer in await ask(client, person, 3)} == {200}
        services: Services = app.state.services
        assert not services.redis.is_away


async def test_a_flushed_redis_is_told_its_scripts_by_a_user_who_may_not_manage_them(own_valkey: Valkey) -> None:
    await own_valkey.run("ACL", "SETUSER", "narrow", "on", ">password", "~*", "+@all", "-script")
    url = own_valkey.url.replace("redis://:" + own_valkey.url.split("@")[0].rpartition(":")[2], "redis://narrow:password")
    async with gateway(url) as made:
        for _ in range(2):
            call = PackedCall(Script("return {KEYS[1], ARGV[1]}"), 1, "key", "EVALSHA")
            assert [await made.run_packed(call) for _ in range(2)] == [[b"key", b"EVALSHA"]] * 2
            await own_valkey.run("SCRIPT", "FLUSH")
        assert not made.is_away


async def test_a_demoted_redis_is_fallen_back_from(settings: Settings, factory: Factory, own_valkey: Valkey) -> None:
    person = await factory.person()
    async with running(changed(settings, redis_url=own_valkey.url)) as (app, client):
        services: Services = app.state.services
        await ask(client, person, 2)
        await own_valkey.run("REPLICAOF", "127.0.0.1", free_port())
        try:
            answers = await ask(client, person, 5)
            assert {answer.status_code for answer in answers} == {200}
            assert services.redis.is_away
        finally:
            await own_valkey.run("REPLICAOF", "NO", "ONE")
        await wait_until_back(services.redis)
        assert {answer.status_code for answer in await ask(client, person, 2)} == {200}
        assert not services.redis.is_away


async def test_the_new_primary_is_used_though_the_former_one_keeps_its_connections(own_valkey: Valkey, tmp_path: Path) -> None:
    """As where the address follows the primary, and the former one lives on as a replica."""
    script = Script("return redis.call('SET', KEYS[1], 1)")
    with valkey(tmp_path) as promoted:
        await promoted.run("CONFIG", "SET", "requirepass", own_valkey.url.split(":")[2].partition("@")[0])
        async with proxy_to(own_valkey.url) as (proxy, url), gateway(url, seconds=2.0) as made:
            await made.run(script, 1, "key")
            await own_valkey.run("REPLICAOF", "127.0.0.1", free_port())
            try:
                proxy.target_port = URL(promoted.url).port or 0
                with pytest.raises(RedisAway):
                    await made.run(script, 1, "key")
                await wait_until_back(made)
                assert await made.run(script, 1, "key") == b"OK"
            finally:
                await own_valkey.run("REPLICAOF", "NO", "ONE")


async def test_a_wrong_password_is_fallen_back_from_and_said_by_health(settings: Settings, factory: Factory, own_valkey: Valkey) -> None:
    person = await factory.person()
    wrong = own_valkey.url.replace("redis://:", "redis://:not-")
    async with running(changed(settings, redis_url=wrong)) as (_, client):
        assert {answer.status_code for answer in await ask(client, person, 3)} == {200}
        assert (await client.get("/health")).json()["checks"] == {"database": "up", "redis": "down"}


async def test_a_password_that_is_changed_while_we_run_is_fallen_back_from(settings: Settings, factory: Factory, own_valkey: Valkey) -> None:
    person = await factory.person()
    password = own_valkey.url.split(":")[2].partition("@")[0]
    async with running(changed(settings, redis_url=own_valkey.url)) as (app, client):
        services: Services = app.state.services
        await ask(client, person, 2)
        async with Redis.from_url(own_valkey.url) as admin:
            await admin.config_set("requirepass", "another")
            await admin.client_kill_filter(_type="normal", skipme=True)
            try:
                assert {answer.status_code for answer in await ask(client, person, 3)} == {200}
                assert services.redis.is_away
            finally:
                await admin.config_set("requirepass", password)


@pytest.mark.parametrize(
    ("setting", "bad", "good"),
    [("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")],
    ids=["its memory is full (OOM)", "its replicas are gone (NOREPLICAS)"],
)
async def test_a_redis_that_refuses_writes_is_fallen_back_from(
    settings: Settings, factory: Factory, own_valkey: Valkey, setting: str, bad: str, good: str
) -> None:
    person = await factory.person()
    async with running(changed(settings, redis_url=own_valkey.url)) as (_, client):
        assert (await client.get("/api/v1/projects", headers=person.headers)).status_code == 200
        await own_valkey.run("CONFIG", "SET", setting, bad)
        try:
            answers = [await client.get("/api/v1/projects", headers=person.headers) for _ in range(3)]
        finally:
            await own_valkey.run("CONFIG", "SET", setting, good)
    assert [answer.status_code for answer in answers] == [200, 200, 200]


async def test_a_role_without_the_right_to_run_scripts_is_fallen_back_from(settings: Settings, factory: Factory, own_valkey: Valkey) -> None:
    person = await factory.person()
    await own_valkey.run("ACL", "SETUSER", "limited", "on", ">limited", "~*", "+ping")
    url = own_valkey.url.replace("redis://:", "redis://limited:").replace(own_valkey.url.split(":")[2].partition("@")[0], "limited")
    async with running(changed(settings, redis_url=url)) as (_, client):
        assert (await client.get("/api/v1/projects", headers=person.headers)).status_code == 200


async def test_connections_cut_short_while_they_were_made_are_not_used_half_made(settings: Settings, factory: Factory, own_valkey: Valkey) -> None:
    """A connection that never got to SELECT its database must not be used: it would write to another one."""
    person = await factory.person()
    await own_valkey.run("FLUSHALL")
    url = own_valkey.url.replace("/0", "/3")
    for _ in range(3):
        async with running(changed(settings, redis_url=url, redis_timeout=HASTY)) as (app, client):
            own_valkey.freeze()
            answers = await asyncio.gather(*(client.get("/api/v1/projects", headers=person.headers) for _ in range(20)))
            assert {answer.status_code for answer in answers} == {200}
            own_valkey.thaw()

            async def back(app: object = app) -> bool:
                return not app.state.services.redis.is_away  # type: ignore[attr-defined]  # a FastAPI

            await eventually(back)
            answers = await asyncio.gather(*(client.get("/api/v1/projects", headers=person.headers) for _ in range(40)))
            assert {answer.status_code for answer in answers} == {200}
    assert set(await own_valkey.run("INFO", "keyspace")) == {"db3"}


async def test_what_is_logged_once_redis_is_back_is_not_about_the_request_that_met_the_failure() -> None:
    async with gateway(f"redis://127.0.0.1:{free_port()}/0") as made:
        seen: list[object] = []

        async def look(*_: object) -> None:
            seen.append(request_state.get())

        made._probe_until_back = look  # type: ignore[method-assign]  # in the place of what logs
        made._pipeline._connect = look  # type: ignore[method-assign]  # a connection is every request's
        about = request_state.set({"request_id": "a-request"})
        try:
            await made._pipeline.connect()
            assert await is_refused(made)
            assert made._probe is not None
            await made._probe
        finally:
            request_state.reset(about)
        assert seen == [None, None]
