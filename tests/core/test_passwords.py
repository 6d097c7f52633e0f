"""Passwords: nothing is cut, what everybody guesses first is refused, and hashing stalls nobody."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
from httpx import AsyncClient

from app.config import Settings
from app.core.exceptions import Overloaded, WeakPassword
from app.core.passwords import COMMON, PasswordHasher, refuse_weak
from tests.factories import PASSWORD, Factory
from tests.faults.support import changed, running

QUICK = 4


@pytest.fixture
def hasher() -> Iterator[PasswordHasher]:
    made = PasswordHasher(QUICK)
    yield made
    made.close()


async def test_the_right_password_alone_verifies(hasher: PasswordHasher) -> None:
    stored = await hasher.hash("the right one")
    assert await hasher.verify("the right one", stored)
    for wrong in ("the wrong one", "the right one ", "The right one", ""):
        assert not await hasher.verify(wrong, stored)


async def test_the_same_password_is_never_hashed_to_the_same(hasher: PasswordHasher) -> None:
    assert len({await hasher.hash("the same") for _ in range(3)}) == 3


@pytest.mark.parametrize("alphabet", ["a", "é", "😀"])
async def test_nothing_of_a_long_password_is_cut(hasher: PasswordHasher, alphabet: str) -> None:
    """bcrypt reads 72 bytes, and NUL ends them."""
    password = alphabet * 127
    stored = await hasher.hash(password + "x")
    assert await hasher.verify(password + "x", stored)
    assert not await hasher.verify(password + "y", stored)
    assert not await hasher.verify(password, stored)


async def test_what_is_stored_is_slow_and_of_the_scheme_that_has_no_limit() -> None:
    production = PasswordHasher(12)
    assert (await production.hash("a password")).startswith("$bcrypt-sha256$v=2,t=2b,r=12$")
    production.close()


async def test_without_a_stored_hash_the_same_work_is_done_and_the_answer_is_no(hasher: PasswordHasher) -> None:
    assert not await hasher.verify("no one's password", None)
    slow = PasswordHasher(9)
    stored = await slow.hash("known")
    await slow.verify("x", None)  # makes the hash to compare with

    async def seconds(against: str | None) -> float:
        began = time.perf_counter()
        for _ in range(3):
            await slow.verify("x", against)
        return time.perf_counter() - began

    known, unknown = min([await seconds(stored) for _ in range(3)]), min([await seconds(None) for _ in range(3)])
    slow.close()
    assert 0.3 < known / unknown < 3


# ─── What is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("password", ["password", "12345678", "PASSWORD", "iloveyou", " password ", "baseball"])
def test_common_passwords_are_refused(password: str) -> None:
    with pytest.raises(WeakPassword, match="common"):
        refuse_weak(password, email="ada@example.com", tenant_name="Acme", tenant_slug="acme")


@pytest.mark.parametrize("password", ["ada.lovelace@example.com", "ADA.LOVELACE@EXAMPLE.COM", "ada.lovelace", "Acme Rockets", "acme-rockets"])
def test_the_address_and_the_tenants_name_are_refused(password: str) -> None:
    with pytest.raises(WeakPassword, match="address"):
        refuse_weak(password, email="Ada.Lovelace@example.com", tenant_name="acme rockets", tenant_slug="acme-rockets")


def test_any_other_password_is_accepted() -> None:
    for password in (PASSWORD, "ada.lovelace!", "日本語のパスワード", "x" * 128):
        refuse_weak(password, email="ada.lovelace@example.com", tenant_name="Acme", tenant_slug="acme")


def test_the_common_ones_are_many_and_long_enough_to_be_tried() -> None:
    assert len(COMMON) > 5_000
    assert min(map(len, COMMON)) == 8


# ─── How it is done ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_event_loop_goes_on_while_passwords_are_hashed() -> None:
    hasher = PasswordHasher(12)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticking = asyncio.create_task(tick())
    await asyncio.gather(*(hasher.hash("a password") for _ in range(3)))
    ticking.cancel()
    hasher.close()
    # On the loop it would be three at the most.
    assert ticks > 20


async def test_who_would_have_to_wait_too_long_is_refused_at_once(hasher: PasswordHasher) -> None:
    waiting = [asyncio.create_task(hasher.hash("a password")) for _ in range(hasher._most)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as refused:
        await hasher.hash("one too many")
    assert int(refused.value.headers["Retry-After"]) >= 1
    assert len(await asyncio.gather(*waiting)) == hasher._most
    assert await hasher.hash("room again")


async def test_who_would_have_to_wait_for_slow_hashes_is_refused_while_few_wait(hasher: PasswordHasher) -> None:
    """As where other processes use the same cores."""
    release = threading.Event()
    hasher._seconds_of_one = 1.0
    # So many take two seconds and no more.
    waiting = [asyncio.create_task(hasher._run(release.wait)) for _ in range(3 * hasher._threads + 1)]
    await asyncio.sleep(0)
    assert hasher._pending == len(waiting) < hasher._most
    with pytest.raises(Overloaded) as refused:
        await hasher.hash("one too many")
    assert int(refused.value.headers["Retry-After"]) >= 1
    release.set()
    await asyncio.gather(*waiting)
    # They were quick, and so is what comes next.
    assert hasher._seconds_of_one < 1.0
    assert await hasher.hash("room again")


async def test_after_a_standstill_as_many_as_there_are_threads_are_served(hasher: PasswordHasher) -> None:
    """However long the last ones took: otherwise nobody would ever learn that it is over."""
    hasher._seconds_of_one = 3600.0
    await asyncio.gather(*(hasher.hash("a password") for _ in range(hasher._threads)))
    assert hasher._seconds_of_one < 3600.0


async def test_there_are_as_many_threads_as_cores_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.core.passwords.usable_cores", lambda: 3)
    three = PasswordHasher(QUICK)
    assert (three._threads, three._pool._max_workers, three._most) == (3, 3, 27)
    three.close()


async def test_a_crowd_that_signs_in_is_answered_or_told_to_come_back(settings: Settings, factory: Factory) -> None:
    """And whoever is signed in already notices nothing."""
    person = await factory.person()
    body = {"email": person.user.email, "password": PASSWORD, "tenant_slug": person.tenant.slug}
    async with running(changed(settings, password_hash_rounds=QUICK)) as (app, client):
        app.state.services.passwords._most = 2
        crowd = [asyncio.create_task(client.post("/api/v1/auth/login", json=body)) for _ in range(30)]
        assert (await client.get("/api/v1/projects", headers=person.headers)).status_code == 200
        answers = await asyncio.gather(*crowd)
    assert {answer.status_code for answer in answers} == {200, 503}
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.json()["code"] == "overloaded"
    assert int(refused.headers["Retry-After"]) >= 1


async def test_a_long_password_works_from_registration_to_sign_in(client: AsyncClient) -> None:
    """Of 128 characters, four bytes each."""
    slug, password = f"long-{time.time_ns()}", "😀" * 127
    registration = {"email": "ada@example.com", "full_name": "Ada", "tenant_slug": slug, "password": password + "x"}
    registered = await client.post("/api/v1/auth/register", json=registration)
    assert registered.status_code == 201, registered.text
    for tried, status in ((password + "x", 200), (password + "y", 401)):
        answer = await client.post("/api/v1/auth/login", json={"email": "ada@example.com", "password": tried, "tenant_slug": slug})
        assert answer.status_code == status
