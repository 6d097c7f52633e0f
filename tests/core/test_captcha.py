"""Proof of work: a solution is good once, in every process, and nothing that a client sends costs the service time."""

import asyncio
import base64
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from altcha import Challenge, Payload, solve_challenge
from httpx import AsyncClient
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.core import attempts
from app.core import captcha as captcha_module
from app.core.account_exceptions import CaptchaInvalid, CaptchaRequired
from app.core.captcha import LONGEST_SOLUTION, Captcha
from app.database_faults import TransactionConflict
from app.services import registration
from app.services.container import Services
from tests.api.answers import accepted, refused
from tests.api.world import newcomer
from tests.factories import PASSWORD, Factory
from tests.faults.support import ROOT, changed, running

OLD, NEW = "the-old-key-of-the-service-0123456789", "the-new-key-of-the-service-0123456789"
REGISTER, FORGOT, CAPTCHA = "/api/v1/auth/register", "/api/v1/auth/password/forgot", "/api/v1/auth/captcha"


@pytest.fixture(autouse=True)
def easy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have challenges solved at once."""
    monkeypatch.setattr(captcha_module, "SMALLEST_NUMBER", 1)
    monkeypatch.setattr(captcha_module, "LARGEST_NUMBER", 5)


@pytest.fixture(scope="module")
async def demanding(settings: Settings) -> AsyncIterator[AsyncClient]:
    """A client of a service that demands solutions."""
    async with running(changed(settings, captcha_required=True)) as (_, client):
        yield client


@pytest.fixture
def captcha(settings: Settings, services: Services) -> Captcha:
    return Captcha(changed(settings, captcha_required=True), services.database)


def solved(challenge: dict[str, Any], **changes: Any) -> str:
    """Return the solution of a challenge as clients send it, with changes to the challenge's parameters."""
    parsed = Challenge.from_dict(challenge)
    solution = solve_challenge(parsed)
    assert solution is not None
    whole = Payload(parsed, solution).to_dict()
    whole["challenge"]["parameters"] |= changes
    return as_text(whole)


def as_text(whole: Any) -> str:
    return base64.b64encode(json.dumps(whole).encode()).decode()


async def test_a_solution_is_good_once(captcha: Captcha) -> None:
    solution = solved(captcha.challenge())
    await captcha.demand(solution)
    with pytest.raises(CaptchaInvalid):
        await captcha.demand(solution)


async def test_a_solution_written_in_another_way_is_the_same(captcha: Captcha) -> None:
    solution = solved(captcha.challenge())
    whole = json.loads(base64.b64decode(solution))
    await captcha.demand(solution)
    whole["solution"]["derivedKey"] = whole["solution"]["derivedKey"].upper()
    whole["solution"]["counter"] += 1
    for other in (as_text(whole), as_text(dict(reversed(whole.items()))), solution + "=", "\n".join(solution)):
        with pytest.raises(CaptchaInvalid):
            await captcha.demand(other)


async def test_of_many_uses_at_once_one_succeeds(captcha: Captcha) -> None:
    for _ in range(5):
        solution = solved(captcha.challenge())
        outcomes = await asyncio.gather(*(captcha.demand(solution) for _ in range(10)), return_exceptions=True)
        assert sum(outcome is None for outcome in outcomes) == 1
        assert all(outcome is None or isinstance(outcome, CaptchaInvalid) for outcome in outcomes)


async def test_a_used_solution_is_remembered_for_longer_than_its_challenge_is_good(captcha: Captcha, factory: Factory) -> None:
    challenge = captcha.challenge()
    await captcha.demand(solved(challenge))
    found = await factory.run("SELECT extract(epoch FROM expires_at)::bigint FROM spent_challenges ORDER BY expires_at DESC")
    assert 590 < challenge["parameters"]["expiresAt"] - time.time() <= 600
    assert (challenge["parameters"]["expiresAt"] + 60,) in [tuple(row) for row in found]


async def test_a_challenge_expires(captcha: Captcha, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captcha_module, "LIFETIME_SECONDS", -1)
    with pytest.raises(CaptchaInvalid):
        await captcha.demand(solved(captcha.challenge()))


@pytest.mark.parametrize(
    "changes", [{"expiresAt": 4_000_000_000}, {"expiresAt": None}, {"cost": 1}, {"keyPrefix": ""}, {"keySignature": None}, {"nonce": "00" * 16}, {"data": {}}]
)
async def test_an_altered_challenge_is_refused(captcha: Captcha, changes: dict[str, Any]) -> None:
    with pytest.raises(CaptchaInvalid):
        await captcha.demand(solved(captcha.challenge(), **changes))


async def test_a_wrong_solution_is_refused(captcha: Captcha) -> None:
    challenge = captcha.challenge()
    for solution in (
        {"counter": 1, "derivedKey": "00" * 32},
        {"counter": 1, "derivedKey": challenge["parameters"]["keyPrefix"]},
        {"counter": -1, "derivedKey": ""},
    ):
        with pytest.raises(CaptchaInvalid):
            await captcha.demand(as_text({"challenge": challenge, "solution": solution}))


async def test_nothing_is_demanded_where_the_installation_does_not(services: Services) -> None:
    await services.captcha.demand(None)
    await services.captcha.demand("nonsense")


async def test_missing_is_told_from_wrong(captcha: Captcha) -> None:
    for missing in (None, ""):
        with pytest.raises(CaptchaRequired):
            await captcha.demand(missing)


async def test_every_process_judges_the_solutions_of_all_and_so_do_former_keys(settings: Settings, services: Services) -> None:
    def of(key: str, *previous: str) -> Captcha:
        return Captcha(changed(settings, captcha_required=True, secret_key=key, secret_keys_previous=previous), services.database)

    await of(OLD).demand(solved(of(OLD).challenge()))
    await of(NEW, OLD).demand(solved(of(OLD).challenge()))
    with pytest.raises(CaptchaInvalid):
        await of(NEW).demand(solved(of(OLD).challenge()))
    rotated = solved(of(OLD).challenge())
    await of(OLD).demand(rotated)
    with pytest.raises(CaptchaInvalid):
        await of(NEW, OLD).demand(rotated)


def hostile(challenge: dict[str, Any]) -> Iterator[str]:
    """Yield what is no solution, and may hurt whoever reads it carelessly."""
    yield from ("x", "=", "é", "\ud800", "A" * LONGEST_SOLUTION, as_text([]), as_text(None), as_text(7), as_text("text"), as_text({}))
    for deep in ("[" * 1400, '{"a":' * 280, '{"challenge":' * 100):
        yield base64.b64encode(deep.encode()).decode()
    junk: Any
    for junk in (None, 7, [], {}, "x", True, 1e308, 10**300, [[[]]]):
        yield as_text({"challenge": junk, "solution": junk})
        yield as_text({"challenge": challenge, "solution": junk})
        yield as_text({"challenge": {"parameters": junk, "signature": junk}, "solution": {"counter": junk, "derivedKey": junk}})
        for name in challenge["parameters"]:
            yield as_text(
                {"challenge": {**challenge, "parameters": {**challenge["parameters"], name: junk}}, "solution": {"counter": junk, "derivedKey": junk}}
            )
        yield as_text({"challenge": {**challenge, "signature": junk}, "solution": {"counter": 1, "derivedKey": "00"}})
    costly = {**challenge["parameters"], "cost": 2**31 - 1, "keySignature": None}
    for algorithm in ("PBKDF2/SHA-512", "SCRYPT", "SHA-256", "ARGON2ID"):
        yield as_text({"challenge": {"parameters": {**costly, "algorithm": algorithm}, "signature": "00" * 32}, "solution": {"counter": 1, "derivedKey": "00"}})
    for constant in ("NaN", "Infinity", "-Infinity", "9" * 400):
        raw = json.dumps({"challenge": {**challenge, "parameters": {**challenge["parameters"], "expiresAt": 0}}, "solution": {"counter": 1, "derivedKey": "0"}})
        yield base64.b64encode(raw.replace('"expiresAt": 0', f'"expiresAt": {constant}').encode()).decode()


async def test_no_solution_that_is_none_costs_time_or_breaks_anything(captcha: Captcha) -> None:
    used = time.process_time()
    tried = 0
    for solution in hostile(captcha.challenge()):
        tried += 1
        with pytest.raises(CaptchaInvalid):
            await captcha.demand(solution)
    assert tried > 100
    # A single derivation at the cost that some of them ask for would take minutes.
    assert time.process_time() - used < 5


@pytest.mark.parametrize("language", ["python", "javascript"])
async def test_the_clients_in_the_documentation_solve_challenges(captcha: Captcha, language: str) -> None:
    code = (ROOT / "docs" / "sign-in.md").read_text().partition(f"```{language}\n")[2].partition("```")[0]
    challenge = captcha.challenge()
    await captcha.demand(solved_in_python(code, challenge) if language == "python" else solved_in_javascript(code, challenge))


def solved_in_python(code: str, challenge: dict[str, Any]) -> str:
    names: dict[str, Any] = {}
    exec(code, names)
    solution: str = names["solve"](challenge)
    return solution


def solved_in_javascript(code: str, challenge: dict[str, Any]) -> str:
    if (node := shutil.which("node")) is None:
        pytest.skip("Node.js is not installed")
    script = f"{code}\nsolve({json.dumps(challenge)}).then((solution) => process.stdout.write(solution));"
    return subprocess.run([node, "-e", script], capture_output=True, text=True, check=True, timeout=30).stdout


# ─── Over HTTP ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_registration_takes_a_solution_once(demanding: AsyncClient) -> None:
    refused(await demanding.post(REGISTER, json=newcomer()), 422, "captcha_required")
    document = refused(await demanding.post(REGISTER, json=newcomer(captcha="nonsense")), 422, "captcha_invalid")
    assert document["errors"][0]["loc"] == ["body", "captcha"]
    solution = solved(accepted(await demanding.get(CAPTCHA)))
    accepted(await demanding.post(REGISTER, json=newcomer(captcha=solution)), 201)
    refused(await demanding.post(REGISTER, json=newcomer(captcha=solution)), 422, "captcha_invalid")


async def test_a_registration_that_is_run_again_after_a_lost_transaction_needs_no_second_solution(
    demanding: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, calls = registration.lock_tenant_names, 0

    async def lose_at_first(session: AsyncSession) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise TransactionConflict("lost against another transaction")
        await lock(session)

    monkeypatch.setattr(registration, "lock_tenant_names", lose_at_first)
    solution = solved(accepted(await demanding.get(CAPTCHA)))
    accepted(await demanding.post(REGISTER, json=newcomer(captcha=solution)), 201)
    assert calls == 2
    refused(await demanding.post(REGISTER, json=newcomer(captcha=solution)), 422, "captcha_invalid")


async def test_a_solution_that_was_not_spent_because_the_spending_was_lost_is_spent_by_the_next_attempt(
    captcha: Captcha, monkeypatch: pytest.MonkeyPatch
) -> None:
    solution = solved(captcha.challenge())
    with attempts.request():
        with monkeypatch.context() as losing:
            losing.setattr(captcha._database, "transaction", lost)
            with pytest.raises(TransactionConflict):
                await captcha.demand(solution)
        await captcha.demand(solution)
    with attempts.request(), pytest.raises(CaptchaInvalid):
        await captcha.demand(solution)


@asynccontextmanager
async def lost(tenant_id: UUID | None) -> AsyncIterator[AsyncSession]:
    """Be a transaction that loses against another one."""
    raise TransactionConflict("lost against another transaction")
    yield


async def test_a_registration_that_is_refused_for_its_password_uses_no_solution_up(demanding: AsyncClient) -> None:
    person = newcomer(captcha=solved((await demanding.get("/api/v1/auth/captcha")).json()))
    refused(await demanding.post("/api/v1/auth/register", json={**person, "password": "password1"}), 422, "weak_password")
    accepted(await demanding.post("/api/v1/auth/register", json=person), 201)


async def test_a_forgotten_password_takes_a_solution_once(demanding: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    asked = {"email": person.user.email, "tenant_slug": person.tenant.slug}
    refused(await demanding.post(FORGOT, json=asked), 422, "captcha_required")
    solution = solved(accepted(await demanding.get(CAPTCHA)))
    accepted(await demanding.post(FORGOT, json={**asked, "captcha": solution}), 202)
    refused(await demanding.post(FORGOT, json={**asked, "captcha": solution}), 422, "captcha_invalid")


async def test_signing_in_takes_none(demanding: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    body = {"email": person.user.email, "password": PASSWORD, "tenant_slug": person.tenant.slug}
    accepted(await demanding.post("/api/v1/auth/login", json=body))


async def test_a_challenge_is_never_cached_and_never_the_same(demanding: AsyncClient) -> None:
    answers = [await demanding.get(CAPTCHA) for _ in range(3)]
    assert all(answer.headers["cache-control"] == "no-store" for answer in answers)
    assert len({answer.json()["parameters"]["nonce"] for answer in answers}) == 3


@pytest.mark.parametrize("captcha", ["x" * (LONGEST_SOLUTION + 1), 7, [], {}, "\0"])
async def test_what_cannot_be_a_solution_is_refused_before_it_is_read(demanding: AsyncClient, captcha: Any) -> None:
    refused(await demanding.post(REGISTER, json=newcomer(captcha=captcha)), 422, "validation_error")
