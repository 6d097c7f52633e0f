"""Refresh tokens: good once, forgiving for ten seconds, and the end of the session when somebody else has one too."""

import base64
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from httpx import AsyncClient
from prometheus_client import REGISTRY
from sqlalchemy import event

from app.config import Settings
from app.core.derived_tokens import LAST_NUMBER, DerivedTokens, TokenKind, TokenName, token_hash
from app.database import Reader
from app.models import Role
from app.services.container import Services
from app.services.sessions import REMEMBERED_REFRESHES
from tests.api.answers import accepted, refused
from tests.api.concurrency import statement_not_yet_committed
from tests.api.sessions import ME, REFRESH, assert_dead, headers_with, let_pass, refresh, row_of, successor
from tests.factories import PASSWORD, Factory, Person
from tests.faults.support import changed, running

BEYOND_THE_GRACE = 10.5
NEW_KEY = "the-new-key-of-the-service-0123456789"


# ─── A refresh ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_refresh_answers_as_a_sign_in_does_with_tokens_that_work(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person(role=Role.VIEWER)
    credentials = {"email": person.user.email, "password": PASSWORD, "tenant_slug": person.tenant.slug}
    first = accepted(await client.post("/api/v1/auth/login", json=credentials))
    second = accepted(await refresh(client, first["refresh_token"]))
    assert second.keys() == first.keys()
    assert [second[name] for name in ("token_type", "expires_in", "refresh_expires_in", "user")] == ["bearer", 30 * 60, 30 * 24 * 3600, first["user"]]
    assert second["refresh_token"] != first["refresh_token"]
    accepted(await client.get(ME, headers=headers_with(second["access_token"], person)))
    accepted(await refresh(client, second["refresh_token"]))


async def test_a_session_can_be_refreshed_again_and_again(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    tokens = [person.refresh_token]
    for _ in range(5):
        tokens.append(await successor(client, tokens[-1]))
    assert len(set(tokens)) == 6
    row = await row_of(factory, person.session_id)
    assert (row.refresh_count, bytes(row.refresh_token_hash)) == (5, token_hash(tokens[-1]))


async def test_of_refresh_tokens_only_hashes_are_stored(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    tokens = [person.refresh_token, await successor(client, person.refresh_token)]
    stored = b"".join(bytes(value) for value in await row_of(factory, person.session_id) if isinstance(value, bytes | memoryview))
    assert stored
    assert not [token for token in tokens if token.encode() in stored]


async def test_a_refresh_keeps_the_session_and_moves_its_end_on(client: AsyncClient, factory: Factory, address: str) -> None:
    person = await factory.person()
    answer = accepted(await refresh(client, person.refresh_token, **{"User-Agent": "Browser " + "x" * 1000}))
    assert answer["user"]["id"] == str(person.user.id)
    row = await row_of(factory, person.session_id)
    now = datetime.now(UTC)
    assert abs(row.expires_at - now - timedelta(days=30)) < timedelta(minutes=5)
    assert abs(row.last_used_at - now) < timedelta(minutes=5)
    assert (row.ip_address, row.user_agent) == (address, ("Browser " + "x" * 1000)[:400])
    assert len(await factory.run("SELECT 1 FROM sessions WHERE user_id = :id", id=person.user.id)) == 1


async def test_a_refresh_gives_the_role_of_now(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person(role=Role.MEMBER)
    await factory.run("UPDATE users SET role = 'viewer' WHERE id = :id", id=person.user.id)
    assert accepted(await refresh(client, person.refresh_token))["user"]["role"] == "viewer"


async def test_a_refresh_needs_no_header_and_agrees_with_those_that_name_its_tenant(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    token = person.refresh_token
    for headers in ({}, {"X-Tenant-Slug": person.tenant.slug}, {"X-Tenant-ID": str(person.tenant.id)}, {"Host": f"{person.tenant.subdomain}.localhost"}):
        answer: dict[str, str] = accepted(await refresh(client, token, **headers))
        token = answer["refresh_token"]


async def test_a_refresh_takes_one_look_at_the_tenant_and_one_statement(
    client: AsyncClient, services: Services, factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = await factory.person()
    read, opened, statements = services.database.read, [], []

    def reading(tenant_id: UUID | None) -> AbstractAsyncContextManager[Reader]:
        opened.append(tenant_id)
        return read(tenant_id)

    def executing(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    monkeypatch.setattr(services.database, "read", reading)
    engine = services.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", executing)
    await successor(client, person.refresh_token)
    event.remove(engine, "before_cursor_execute", executing)
    assert opened == [None]
    assert [statement.split()[0] for statement in statements] == ["UPDATE"]


# ─── The time of grace ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_repeat_within_the_grace_gets_the_same_successor_and_tokens_that_work(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    first, second = [accepted(await refresh(client, person.refresh_token)) for _ in range(2)]
    assert second["refresh_token"] == first["refresh_token"]
    for answer in (first, second):
        accepted(await client.get(ME, headers=headers_with(answer["access_token"], person)))
    accepted(await refresh(client, second["refresh_token"]))
    assert (await row_of(factory, person.session_id)).refresh_count == 2


async def test_a_repeat_within_the_grace_gets_the_current_token_although_another_tab_has_gone_on(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    line = [person.refresh_token]
    for _ in range(3):
        line.append(await successor(client, line[-1]))
    assert [await successor(client, token) for token in line[:3]] == [line[-1]] * 3
    await let_pass(factory, person.session_id, 6.0)
    line.append(await successor(client, line[-1]))
    await let_pass(factory, person.session_id, 6.0)
    # Each has its own ten seconds.
    assert await successor(client, line[-2]) == line[-1]
    refused(await refresh(client, line[-3]), 401, "refresh_token_reused")


async def test_a_made_up_token_gets_nothing_within_the_grace(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    for token in (person.refresh_token, await successor(client, person.refresh_token)):
        await successor(client, token)
    body = base64.urlsafe_b64decode(person.refresh_token + "=" * (-len(person.refresh_token) % 4))
    forged = base64.urlsafe_b64encode(body[:-1] + bytes([body[-1] ^ 1])).rstrip(b"=").decode()
    refused(await refresh(client, forged), 401, "token_invalid")
    assert (await row_of(factory, person.session_id)).revoked_at is None


async def test_no_more_refreshes_are_remembered_than_a_few(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    token = person.refresh_token
    for _ in range(REMEMBERED_REFRESHES + 3):
        token = await successor(client, token)
    assert len((await row_of(factory, person.session_id)).earlier_refreshes) == REMEMBERED_REFRESHES
    refused(await refresh(client, person.refresh_token), 401, "refresh_token_reused")


async def test_a_repeat_does_not_make_the_grace_longer(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    await successor(client, person.refresh_token)
    for seconds in (4.0, 4.0):
        await let_pass(factory, person.session_id, seconds)
        await successor(client, person.refresh_token)
    await let_pass(factory, person.session_id, 2.5)
    refused(await refresh(client, person.refresh_token), 401, "refresh_token_reused")


async def test_a_repeat_is_answered_by_a_server_that_has_another_key_already(client: AsyncClient, settings: Settings, factory: Factory) -> None:
    person = await factory.person()
    old = settings.secret_key.get_secret_value()
    async with running(changed(settings, secret_key=NEW_KEY, secret_keys_previous=(old,))) as (_, swapped):
        first = await successor(swapped, person.refresh_token)
        async with running(changed(settings, secret_keys_previous=(NEW_KEY,))) as (_, not_yet):
            assert await successor(not_yet, person.refresh_token) == first


# ─── Reuse ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("first", ["the owner", "the thief"])
async def test_a_stolen_token_is_of_use_until_both_have_used_it(client: AsyncClient, factory: Factory, first: str) -> None:
    """Whoever comes second cannot be told from a thief: the session ends for both, in the database, although the answer is an error."""
    person = await factory.person()
    current = await successor(client, person.refresh_token)
    await let_pass(factory, person.session_id, BEYOND_THE_GRACE)
    if first == "the thief":
        # The one who was first has gone on with it; the other still has the token from before.
        current = await successor(client, current)
    refused(await refresh(client, person.refresh_token), 401, "refresh_token_reused")
    await assert_dead(client, factory, person, person.refresh_token, current)


async def test_an_older_token_ends_the_session_though_it_was_refreshed_a_moment_ago(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    second = await successor(client, person.refresh_token)
    await let_pass(factory, person.session_id, BEYOND_THE_GRACE)
    third = await successor(client, second)
    refused(await refresh(client, person.refresh_token), 401, "refresh_token_reused")
    await assert_dead(client, factory, person, second, third)


async def test_reuse_ends_that_session_alone(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    other = await factory.sign_in(person.tenant, person.user)
    await successor(client, person.refresh_token)
    await let_pass(factory, person.session_id, BEYOND_THE_GRACE)
    refused(await refresh(client, person.refresh_token), 401, "refresh_token_reused")
    accepted(await client.get(ME, headers=other.headers))
    accepted(await refresh(client, other.refresh_token))


# ─── Tokens that are not good ────────────────────────────────────────────────────────────────────────────────────────


async def test_the_token_of_a_session_that_was_ended_is_revoked(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    await factory.run("UPDATE sessions SET revoked_at = now() WHERE id = :id", id=person.session_id)
    refused(await refresh(client, person.refresh_token), 401, "token_revoked")


async def test_the_token_of_somebody_deactivated_is_revoked(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person(is_active=False)
    refused(await refresh(client, person.refresh_token), 401, "token_revoked")


async def test_the_token_of_somebody_deleted_is_revoked(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    await factory.run("DELETE FROM users WHERE id = :id", id=person.user.id)
    refused(await refresh(client, person.refresh_token), 401, "token_revoked")


async def test_the_token_of_a_session_that_ran_out_has_expired(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    old = person.refresh_token
    current = await successor(client, old)
    await factory.run("UPDATE sessions SET expires_at = now() WHERE id = :id", id=person.session_id)
    for token in (old, current):
        refused(await refresh(client, token), 401, "token_expired")


async def test_in_a_suspended_tenant_nobody_refreshes(client: AsyncClient, factory: Factory) -> None:
    person = await factory.person(await factory.tenant(is_active=False))
    refused(await refresh(client, person.refresh_token), 403, "tenant_inactive")
    await factory.run("UPDATE tenants SET is_active = true WHERE id = :id", id=person.tenant.id)
    accepted(await refresh(client, person.refresh_token))


async def test_a_forged_token_does_not_tell_that_a_tenant_is_suspended(client: AsyncClient, settings: Settings, factory: Factory) -> None:
    person = await factory.person(await factory.tenant(is_active=False))
    for token in forged(person, settings).values():
        refused(await refresh(client, token), 401, "token_invalid")


def forged(person: Person, settings: Settings) -> dict[str, str]:
    """Return tokens that name a session, made by somebody who knows its identifiers and nothing else."""
    ours, theirs = DerivedTokens(settings), DerivedTokens(changed(settings, secret_key=NEW_KEY))
    names = {f"number {number}": TokenName(person.tenant.id, person.session_id, number) for number in (0, 1, 2**31 - 1, 2**31, LAST_NUMBER)}
    return {
        **{f"forged, {what}": theirs.make(TokenKind.REFRESH, name) for what, name in names.items()},
        "of another kind": ours.make(TokenKind.MAILED, TokenName(person.tenant.id, person.session_id)),
        "of no session": theirs.make(TokenKind.REFRESH, TokenName(person.tenant.id, uuid4())),
        "of no tenant": ours.make(TokenKind.REFRESH, TokenName(uuid4(), person.session_id)),
        "of another user's identifier": theirs.make(TokenKind.REFRESH, TokenName(person.tenant.id, person.user.id)),
        "altered": person.refresh_token[:-2] + ("A" if person.refresh_token[-2] != "A" else "B") + person.refresh_token[-1],
        "with spaces": f" {person.refresh_token} ",
        "padded": person.refresh_token + "=",
        "cut": person.refresh_token[:-1],
        "an access token": person.token,
        "empty": "",
        "no text at all": "💥" * 30,
        "long": "A" * 1024,
    }


async def test_whoever_can_only_guess_at_a_token_learns_nothing_and_ends_nothing(client: AsyncClient, settings: Settings, factory: Factory) -> None:
    person = await factory.person()
    before = await row_of(factory, person.session_id)
    texts = set()
    for token in forged(person, settings).values():
        answer = await refresh(client, token, **{"X-Request-ID": "the-same"})
        refused(answer, 401, "token_invalid")
        assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
        texts.add(answer.text)
    assert len(texts) == 1
    assert await row_of(factory, person.session_id) == before
    # Not even of a session that has ended.
    await factory.run("UPDATE sessions SET revoked_at = now() WHERE id = :id", id=person.session_id)
    for token in forged(person, settings).values():
        refused(await refresh(client, token), 401, "token_invalid")


async def test_a_token_sent_to_another_tenant_is_no_token_there_and_stays_good_at_home(client: AsyncClient, factory: Factory) -> None:
    person, other = await factory.person(), await factory.person()
    before = await row_of(factory, person.session_id)
    for headers in (
        {"X-Tenant-Slug": other.tenant.slug},
        {"X-Tenant-Slug": "nobody-s"},
        {"X-Tenant-ID": str(other.tenant.id)},
        {"X-Tenant-ID": "no identifier"},
        {"Host": f"{other.tenant.subdomain}.localhost"},
    ):
        refused(await refresh(client, person.refresh_token, **headers), 401, "token_invalid")
    assert await row_of(factory, person.session_id) == before
    accepted(await refresh(client, person.refresh_token))


async def test_a_token_that_is_ahead_of_its_session_ends_nothing(client: AsyncClient, factory: Factory) -> None:
    """As after a database was put back to an earlier time: nobody has used anything twice."""
    person = await factory.person()
    ahead = factory.derived_tokens.make(TokenKind.REFRESH, TokenName(person.tenant.id, person.session_id, 3))
    refused(await refresh(client, ahead), 401, "token_invalid")
    accepted(await refresh(client, person.refresh_token))


@pytest.mark.parametrize(
    ("body", "where"), [({}, "refresh_token"), ({"refresh_token": None}, "refresh_token"), ({"refresh_token": "x" * 1025}, "refresh_token")]
)
async def test_a_body_without_a_token_is_refused(client: AsyncClient, body: dict[str, Any], where: str) -> None:
    problem = refused(await client.post(REFRESH, json=body), 422, "validation_error")
    assert [error["loc"] for error in problem["errors"]] == [["body", where]]


# ─── After the key is gone ───────────────────────────────────────────────────────────────────────────────────────────


async def test_a_token_outlives_its_key(settings: Settings, factory: Factory) -> None:
    """For the current token of a session and the one before it, the stored hash is enough: thirty days later nobody has to sign in again."""
    person = await factory.person()
    async with running(changed(settings, secret_key=NEW_KEY)) as (_, client):
        second = await successor(client, person.refresh_token)
        assert await successor(client, person.refresh_token) == second
        third = await successor(client, second)
        # Older than that, it cannot be told from a forged one.
        refused(await refresh(client, person.refresh_token), 401, "token_invalid")
        accepted(await refresh(client, third))


async def test_reuse_is_noticed_though_the_key_is_gone(settings: Settings, factory: Factory) -> None:
    person = await factory.person()
    async with running(changed(settings, secret_key=NEW_KEY)) as (_, client):
        second = await successor(client, person.refresh_token)
        await let_pass(factory, person.session_id, BEYOND_THE_GRACE)
        refused(await refresh(client, person.refresh_token), 401, "refresh_token_reused")
        refused(await refresh(client, second), 401, "token_revoked")


# ─── At the same moment ──────────────────────────────────────────────────────────────────────────────────────────────


REVOKING = "UPDATE sessions SET revoked_at = now() WHERE id = $1"


async def test_a_refresh_that_waits_for_a_revocation_is_refused(client: AsyncClient, factory: Factory, database_urls: tuple[str, str]) -> None:
    person = await factory.person()
    async with statement_not_yet_committed(database_urls[0], REVOKING, person.session_id) as revocation:
        refused(await revocation.commit_while(refresh(client, person.refresh_token)), 401, "token_revoked")
    await assert_dead(client, factory, person, person.refresh_token)


# ─── Counted ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_outcomes_are_counted(client: AsyncClient, factory: Factory) -> None:
    outcomes = ("rotated", "repeated", "refresh_token_reused", "token_revoked", "token_invalid")

    def counted() -> list[float]:
        return [REGISTRY.get_sample_value("session_refreshes_total", {"outcome": outcome}) or 0.0 for outcome in outcomes]

    before = counted()
    person = await factory.person()
    for _ in range(2):
        await refresh(client, person.refresh_token)
    await let_pass(factory, person.session_id, BEYOND_THE_GRACE)
    for token in (person.refresh_token, person.refresh_token, "garbage"):
        await refresh(client, token)
    assert [after - earlier for after, earlier in zip(counted(), before, strict=True)] == [1.0] * 5
