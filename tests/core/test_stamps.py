"""What one process changes, every other process knows with its next request. Here, "other" has caches and connections of its own."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from httpx import AsyncClient

from app.config import Settings
from app.core.redis import RedisGateway
from app.core.security import Claims
from app.core.stamps import ENTRY_SECONDS, Stamp, StampedCache, Stamps, stamp_key
from app.core.tenancy import TenantName
from app.main import create_app
from app.models import Role
from app.services.container import Services
from tests.factories import Factory, Person
from tests.faults.support import HASTY, Valkey, changed, environment_of, eventually, proxy_to, run_cli, running, valkey


@pytest.fixture(scope="module")
async def other(settings: Settings) -> AsyncIterator[AsyncClient]:
    """A client of another instance of the application, on the same servers."""
    async with running(settings) as (_, client):
        yield client


@pytest.fixture(scope="module")
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


async def warm(client: AsyncClient, person: Person, times: int = 3) -> None:
    """Have an instance know the person by heart."""
    for _ in range(times):
        answer = await client.get("/api/v1/auth/me", headers=person.headers)
        assert answer.status_code == 200, answer.text


# ─── People ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("redis_is", ["there", "flushed", "away"])
async def test_a_role_change_is_felt_by_every_server_with_the_next_request(
    client: AsyncClient, settings: Settings, factory: Factory, own_valkey: Valkey, redis_is: str
) -> None:
    admin = await factory.person()
    member = await factory.person(admin.tenant, Role.MEMBER)
    on_own = changed(settings, redis_url=own_valkey.url)
    async with proxy_to(own_valkey.url) as (proxy, url), running(on_own) as (_, here), running(changed(on_own, redis_url=url)) as (_, there):
        await warm(there, member)
        if redis_is == "away":
            await proxy.refuse()
        answer = await here.patch(f"/api/v1/users/{member.user.id}", headers=admin.headers, json={"role": "viewer"})
        assert answer.status_code == 200, answer.text
        if redis_is == "flushed":
            await own_valkey.run("FLUSHALL")
        refused = await there.post("/api/v1/projects", headers=member.headers, json={"name": "Not any more"})
        assert refused.status_code == 403
        assert (await there.get("/api/v1/auth/me", headers=member.headers)).json()["user"]["role"] == "viewer"


async def test_a_deactivation_is_felt_by_every_server_with_the_next_request(client: AsyncClient, other: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    member = await factory.person(admin.tenant, Role.MEMBER)
    await warm(other, member)
    assert (await client.patch(f"/api/v1/users/{member.user.id}", headers=admin.headers, json={"is_active": False})).status_code == 200
    refused = await other.get("/api/v1/projects", headers=member.headers)
    assert (refused.status_code, refused.json()["code"]) == (401, "token_revoked")


async def test_a_deletion_is_felt_by_every_server_with_the_next_request(client: AsyncClient, other: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    member = await factory.person(admin.tenant, Role.MEMBER)
    await warm(other, member)
    assert (await client.delete(f"/api/v1/users/{member.user.id}", headers=admin.headers)).status_code == 204
    refused = await other.get("/api/v1/projects", headers=member.headers)
    assert (refused.status_code, refused.json()["code"]) == (401, "token_revoked")


async def test_a_reactivated_user_is_let_in_with_a_new_session_and_not_with_the_old_one(client: AsyncClient, other: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    member = await factory.person(admin.tenant, Role.MEMBER)
    await warm(other, member)
    for is_active, status in ((False, 401), (True, 200)):
        await client.patch(f"/api/v1/users/{member.user.id}", headers=admin.headers, json={"is_active": is_active})
        assert (await other.get("/api/v1/projects", headers=member.headers)).status_code == 401
        signed_in = await factory.sign_in(admin.tenant, member.user)
        assert (await other.get("/api/v1/projects", headers=signed_in.headers)).status_code == status


async def test_a_new_name_is_shown_by_every_server_with_the_next_request(client: AsyncClient, other: AsyncClient, factory: Factory) -> None:
    member = await factory.person(role=Role.MEMBER)
    await warm(other, member)
    await client.patch(f"/api/v1/users/{member.user.id}", headers=member.headers, json={"full_name": "New Name"})
    assert (await other.get("/api/v1/auth/me", headers=member.headers)).json()["user"]["full_name"] == "New Name"


async def test_a_change_of_one_user_leaves_what_is_known_of_others(client: AsyncClient, services: Services, factory: Factory) -> None:
    admin = await factory.person()
    member = await factory.person(admin.tenant, Role.MEMBER)
    await warm(client, admin)
    key = (admin.tenant.id, admin.user.id, admin.session_id)
    known = services.principals._cache.peek(key)
    assert known is not None
    await client.patch(f"/api/v1/users/{member.user.id}", headers=admin.headers, json={"role": "viewer"})
    await warm(client, admin)
    assert services.principals._cache.peek(key) is known


# ─── Tenants ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_suspension_by_the_command_line_is_felt_with_the_next_request(
    client: AsyncClient, other: AsyncClient, settings: Settings, factory: Factory, tmp_path: Path
) -> None:
    person = await factory.person()
    ways = {"X-Tenant-Slug": person.tenant.slug, "X-Tenant-ID": str(person.tenant.id), "Host": f"{person.tenant.subdomain}.localhost"}
    headers = [{"Authorization": f"Bearer {person.token}", name: value} for name, value in ways.items()]
    calls = [(instance, way) for instance in (client, other) for way in headers for _ in range(3)]
    for instance, way in calls:
        assert (await instance.get("/api/v1/projects", headers=way)).status_code == 200
    run_cli(tmp_path, environment_of(settings), "tenants", "suspend", person.tenant.slug)
    for instance, way in calls:
        refused = await instance.get("/api/v1/projects", headers=way)
        assert (refused.status_code, refused.json()["code"]) == (403, "tenant_inactive")
    run_cli(tmp_path, environment_of(settings), "tenants", "activate", person.tenant.slug)
    for instance, way in calls:
        assert (await instance.get("/api/v1/projects", headers=way)).status_code == 200


async def test_new_limits_by_the_command_line_count_with_the_next_request(other: AsyncClient, settings: Settings, factory: Factory, tmp_path: Path) -> None:
    person = await factory.person(await factory.tenant(rate_limit_per_minute=60, rate_limit_burst=100))
    await warm(other, person)
    run_cli(tmp_path, environment_of(settings), "tenants", "set-limits", person.tenant.slug, "--per-minute", "60", "--burst", "40")
    # The first request is counted by what was known; it is the one that learns of the change.
    await warm(other, person, 1)
    answer = await other.get("/api/v1/auth/me", headers=person.headers)
    assert answer.headers["RateLimit-Policy"].startswith('"tenant";q=40;w=40')


async def test_a_tenant_is_gone_from_its_old_subdomain_at_once(client: AsyncClient, other: AsyncClient, factory: Factory) -> None:
    subdomain = f"s-{uuid4().hex[:12]}"
    person = await factory.person(await factory.tenant(subdomain=subdomain))
    at_old, at_new = ({"Authorization": f"Bearer {person.token}", "Host": f"{name}.localhost"} for name in (subdomain, f"{subdomain}-new"))
    assert (await other.get("/api/v1/tenant", headers=at_old)).status_code == 200
    changing = await client.patch("/api/v1/tenant", headers=person.headers, json={"subdomain": f"{subdomain}-new"})
    assert changing.status_code == 200, changing.text
    gone = await other.get("/api/v1/tenant", headers=at_old)
    assert (gone.status_code, gone.json()["code"]) == (404, "tenant_not_found")
    assert (await other.get("/api/v1/tenant", headers=at_new)).json()["subdomain"] == f"{subdomain}-new"


async def test_the_former_tenant_of_a_subdomain_is_refused_once_another_has_it(client: AsyncClient, other: AsyncClient, factory: Factory) -> None:
    subdomain = f"s-{uuid4().hex[:12]}"
    former, new = await factory.person(await factory.tenant(subdomain=subdomain)), await factory.person()
    as_former = {"Authorization": f"Bearer {former.token}", "Host": f"{subdomain}.localhost"}
    assert (await other.get("/api/v1/tenant", headers=as_former)).status_code == 200
    assert (await client.patch("/api/v1/tenant", headers=former.headers, json={"subdomain": None})).status_code == 200
    assert (await client.patch("/api/v1/tenant", headers=new.headers, json={"subdomain": subdomain})).status_code == 200
    refused = await other.get("/api/v1/tenant", headers=as_former)
    assert (refused.status_code, refused.json()["code"]) == (403, "tenant_mismatch")


async def test_the_new_tenant_of_a_subdomain_is_let_in_at_once(client: AsyncClient, other: AsyncClient, factory: Factory) -> None:
    subdomain = f"s-{uuid4().hex[:12]}"
    former, new = await factory.person(await factory.tenant(subdomain=subdomain)), await factory.person()
    host = {"Host": f"{subdomain}.localhost"}
    assert (await other.get("/api/v1/tenant", headers={"Authorization": f"Bearer {former.token}", **host})).status_code == 200
    assert (await client.patch("/api/v1/tenant", headers=former.headers, json={"subdomain": None})).status_code == 200
    assert (await client.patch("/api/v1/tenant", headers=new.headers, json={"subdomain": subdomain})).status_code == 200
    answer = await other.get("/api/v1/tenant", headers={"Authorization": f"Bearer {new.token}", **host})
    assert answer.status_code == 200, answer.text
    assert answer.json()["id"] == str(new.tenant.id)


# ─── While Redis is away ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_change_made_while_redis_hung_is_told_once_it_is_back(settings: Settings, factory: Factory, own_valkey: Valkey) -> None:
    """The other instance slept through it: it never learnt that Redis was away, and still has what it knew."""
    admin = await factory.person()
    member = await factory.person(admin.tenant, Role.MEMBER)
    hasty = changed(settings, redis_url=own_valkey.url, redis_timeout=HASTY)
    async with running(hasty) as (app, here), running(changed(hasty, redis_timeout=2.0)) as (_, there):
        services: Services = app.state.services
        await warm(there, member)
        own_valkey.freeze()
        answer = await here.patch(f"/api/v1/users/{member.user.id}", headers=admin.headers, json={"role": "viewer"})
        assert answer.status_code == 200
        assert services.redis.is_away
        own_valkey.thaw()

        async def back() -> bool:
            return not services.redis.is_away

        await eventually(back)
        assert (await there.get("/api/v1/auth/me", headers=member.headers)).json()["user"]["role"] == "viewer"


async def test_nothing_is_answered_from_memory_while_redis_is_away(settings: Settings, factory: Factory, own_valkey: Valkey) -> None:
    member = await factory.person(role=Role.MEMBER)
    async with proxy_to(own_valkey.url) as (proxy, url), running(changed(settings, redis_url=url)) as (_, client):
        await warm(client, member)
        await proxy.refuse()
        for full_name in ("First", "Second"):
            await factory.run("UPDATE users SET full_name = :name WHERE id = :id", name=full_name, id=member.user.id)
            assert (await client.get("/api/v1/auth/me", headers=member.headers)).json()["user"]["full_name"] == full_name


# ─── What Redis has lost ─────────────────────────────────────────────────────────────────────────────────────────────


async def cut_off(server: Valkey, services: Services) -> None:
    """Have the application lose its connection to Redis, and find that out while nobody asks."""
    await server.run("CLIENT", "KILL", "TYPE", "normal")

    async def lost() -> bool:
        return not services.redis._pipeline.is_connected

    await eventually(lost)
    assert not services.redis.is_away


async def break_off(_: Valkey, services: Services) -> None:
    """Have the breaker open and close again."""
    services.redis.failed(OSError())

    async def back() -> bool:
        return not services.redis.is_away

    await eventually(back)


@pytest.mark.parametrize("change", ["demoted", "deleted"])
async def test_a_change_counts_though_its_stamp_was_evicted(settings: Settings, factory: Factory, own_valkey: Valkey, change: str) -> None:
    admin = await factory.person()
    person = await factory.person(admin.tenant)
    on_own = changed(settings, redis_url=own_valkey.url)
    async with running(on_own) as (_, here), running(on_own) as (_, there):
        await warm(there, person)
        path = f"/api/v1/users/{person.user.id}"
        if change == "demoted":
            assert (await here.patch(path, headers=admin.headers, json={"role": "viewer"})).status_code == 200
        else:
            assert (await here.delete(path, headers=admin.headers)).status_code == 204
        assert await own_valkey.run("DEL", stamp_key(admin.tenant.id, person.user.id)) == 1
        refused = await there.patch("/api/v1/tenant", headers=person.headers, json={"name": "Still mine"})
        assert refused.status_code == (403 if change == "demoted" else 401)


async def test_a_change_counts_though_redis_failed_over_to_a_replica_that_had_not_heard_of_it(settings: Settings, factory: Factory, own_valkey: Valkey) -> None:
    admin = await factory.person()
    person = await factory.person(admin.tenant)
    key = stamp_key(admin.tenant.id, person.user.id)
    on_own = changed(settings, redis_url=own_valkey.url)
    async with running(on_own) as (_, here), running(on_own) as (app, there):
        await warm(there, person)
        before = await own_valkey.run("GET", key)
        assert (await here.patch(f"/api/v1/users/{person.user.id}", headers=admin.headers, json={"role": "viewer"})).status_code == 200
        await own_valkey.run("SET", key, before)
        await cut_off(own_valkey, app.state.services)
        refused = await there.patch("/api/v1/tenant", headers=person.headers, json={"name": "Still mine"})
        assert refused.status_code == 403


@pytest.mark.parametrize("lose", [cut_off, break_off])
async def test_what_was_still_being_loaded_when_redis_was_lost_counts_no_more(
    settings: Settings, factory: Factory, own_valkey: Valkey, lose: Callable[[Valkey, Services], Awaitable[None]]
) -> None:
    person = await factory.person()
    async with running(changed(settings, redis_url=own_valkey.url)) as (app, client):
        services: Services = app.state.services
        claims, name = services.tokens.verify(person.token), TenantName("slug", person.tenant.slug)
        tenant = await services.tenants.load(name)
        assert tenant is not None
        stamp = (await services.limiter.admit(tenant, claims)).stamp
        await lose(own_valkey, services)
        # Only now are the loads done that began under that stamp.
        await services.principals.find(claims, stamp)
        await services.tenants.confirm(name, stamp)
        # Nobody could be told of these, or what they were told is lost.
        await factory.run("UPDATE users SET role = 'viewer' WHERE id = :id", id=person.user.id)
        await factory.run("UPDATE tenants SET name = 'Renamed' WHERE id = :id", id=person.tenant.id)
        known = (await client.get("/api/v1/auth/me", headers=person.headers)).json()
        assert (known["user"]["role"], known["tenant"]["name"]) == ("viewer", "Renamed")


async def test_what_was_loaded_again_is_remembered_again(settings: Settings, factory: Factory, own_valkey: Valkey) -> None:
    person = await factory.person()
    async with running(changed(settings, redis_url=own_valkey.url)) as (app, client):
        services: Services = app.state.services
        await warm(client, person)
        await cut_off(own_valkey, services)
        await warm(client, person)
        known = services.principals._cache.peek((person.tenant.id, person.user.id, person.session_id))
        await warm(client, person)
        assert known is not None
        assert services.principals._cache.peek((person.tenant.id, person.user.id, person.session_id)) is known


# ─── The parts ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def gateway(settings: Settings) -> AsyncIterator[RedisGateway]:
    made = RedisGateway(settings.redis_url.get_secret_value(), timeout=2.0, max_connections=5)
    yield made
    await made.close()


def test_an_answer_counts_under_the_stamp_it_was_loaded_under_alone() -> None:
    cache: StampedCache[str, str] = StampedCache()
    cache.put("key", "value", Stamp(b"1", b"2"))
    assert cache.get("key", Stamp(b"1", b"2")) == "value"
    for stamp in (None, Stamp(b"1"), Stamp(b"1", b"3"), Stamp(b"2", b"2"), Stamp(b"1", b"2", epoch=1)):
        assert cache.get("key", stamp) is None
    assert cache.peek("key") == "value"
    assert cache.peek("other") is None


def test_an_answer_is_kept_for_five_minutes_at_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr("app.core.stamps.monotonic", lambda: now)
    cache: StampedCache[str, str] = StampedCache()
    cache.put("key", "value", Stamp(b"1"))
    now += ENTRY_SECONDS
    assert cache.get("key", Stamp(b"1")) == "value"
    now += 0.001
    assert cache.get("key", Stamp(b"1")) is None
    assert cache.peek("key") is None


def test_no_more_entries_are_kept_than_there_is_room_for() -> None:
    cache: StampedCache[int, int] = StampedCache(entries=10)
    for number in range(100):
        cache.put(number, number, Stamp(b"1"))
    assert [number for number in range(100) if cache.peek(number) is not None] == list(range(90, 100))


async def test_a_renewed_stamp_is_never_the_former_one(gateway: RedisGateway) -> None:
    stamps, tenant, user = Stamps(gateway), uuid4(), uuid4()
    seen: set[object] = set()
    for _ in range(50):
        await stamps.renew(tenant, user)
        await stamps.renew(tenant)
        seen |= {await gateway.client.get(stamp_key(tenant, user)), await gateway.client.get(stamp_key(tenant))}
    assert len(seen) == 100
    assert await gateway.client.pttl(stamp_key(tenant)) > ENTRY_SECONDS * 1000


def test_all_stamps_of_a_tenant_share_a_hash_tag() -> None:
    tenant, user = UUID(int=1), UUID(int=2)
    assert stamp_key(tenant).startswith(f"{{t:{tenant}}}:")
    assert stamp_key(tenant, user).startswith(f"{{t:{tenant}}}:")


async def test_what_was_loaded_before_a_change_is_not_kept_under_the_new_stamp(settings: Settings, factory: Factory) -> None:
    """A slow load that a change overtakes is kept under the stamp that was read before it, and so never served."""
    tenant = await factory.tenant()
    services: Services = create_app(settings).state.services
    name = TenantName("slug", tenant.slug)
    claims = Claims(uuid4(), tenant.id, uuid4(), Role.ADMIN, 0)
    stamp = Stamp((await services.limiter.admit(tenant, claims)).stamp.tenant)  # type: ignore[arg-type,union-attr]  # has the fields; Redis is there
    await services.tenants.confirm(name, stamp)
    await factory.run("UPDATE tenants SET name = 'Renamed' WHERE id = :id", id=tenant.id)
    await services.stamps.renew(tenant.id)
    current = (await services.limiter.admit(tenant, claims)).stamp  # type: ignore[arg-type]  # has the fields
    found = await services.tenants.confirm(name, current)
    assert found is not None
    assert found.name == "Renamed"
    await services.close()
