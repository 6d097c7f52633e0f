"""Whether an account exists shows neither in the answer nor in the work: the same hashes, the same statements, the same calls to Redis."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import event

from app.core.redis import RedisGateway
from app.services.container import Services
from tests.api.answers import accepted, refused
from tests.clients import client_of
from tests.factories import Factory, Person

LOGIN, RESEND, FORGOT = "/api/v1/auth/login", "/api/v1/auth/verify-email/resend", "/api/v1/auth/password/forgot"


@dataclass
class Work:
    """What a request has had done."""

    hashes: list[str] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)


@contextmanager
def watched(services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    """Note the work done meanwhile."""
    work = Work()
    verify: Callable[..., bool] = services.passwords._context.verify
    run: Callable[..., Any] = RedisGateway.run

    def verifying(password: str, stored: str, **options: Any) -> bool:
        work.hashes.append(stored.rpartition("$")[0].rpartition("$")[0])
        return verify(password, stored, **options)

    async def running(gateway: RedisGateway, script: Any, *arguments: Any) -> Any:
        work.calls.append(script.digest)
        return await run(gateway, script, *arguments)

    def executing(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        work.statements.append(statement)

    engine = services.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", executing)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(services.passwords._context, "verify", verifying)
            patch.setattr(RedisGateway, "run", running)
            yield work
    finally:
        event.remove(engine, "before_cursor_execute", executing)


async def people(factory: Factory) -> dict[str, dict[str, str]]:
    """Make accounts of each kind, and return what each is asked with."""
    person = await factory.person()

    def of(person: Person, **changes: str) -> dict[str, str]:
        return {"email": person.user.email, "tenant_slug": person.tenant.slug, **changes}

    return {
        "known": of(person),
        "without a password": of(await factory.person(person.tenant, password_hash=None)),
        "off": of(await factory.person(person.tenant, is_active=False)),
        "unknown": of(person, email=f"{uuid4().hex}@example.com"),
        "no address": of(person, email=f"no address {uuid4().hex}"),
    }


async def test_a_refused_sign_in_is_the_same_work_for_every_kind_of_account(
    client: AsyncClient, address: str, factory: Factory, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = await people(factory)
    at_home = await factory.person()
    await factory.run("UPDATE sessions SET ip_address = :address WHERE id = :id", address=address, id=at_home.session_id)
    kinds["known, from where it is known"] = {"email": at_home.user.email, "tenant_slug": at_home.tenant.slug}
    suspended = await factory.person(await factory.tenant(is_active=False))
    kinds["of a suspended tenant"] = {"email": suspended.user.email, "tenant_slug": suspended.tenant.slug}
    kinds["of no tenant"] = {**kinds["known"], "tenant_slug": f"none-{uuid4().hex[:12]}"}
    done = {}
    for kind, body in kinds.items():
        # Refused by the password, and after five of them by the throttle.
        for attempt in range(7):
            with watched(services, monkeypatch) as work:
                answer = await client.post(LOGIN, json={**body, "password": "a wrong passphrase"})
            refused(answer, *((401, "invalid_credentials") if attempt < 5 else (429, "sign_in_throttled")))
            done[kind, attempt] = work
    for attempt in range(7):
        for kind in kinds:
            assert done[kind, attempt] == done["known", attempt], (kind, attempt)
        assert len(done["known", attempt].hashes) == (1 if attempt < 5 else 0)
        assert len(done["known", attempt].statements) == 1


@pytest.mark.parametrize("path", [FORGOT, RESEND])
async def test_asking_for_mail_is_the_same_work_for_every_kind_of_account(
    app: FastAPI, factory: Factory, services: Services, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    kinds = await people(factory)
    done = {}
    for kind, body in kinds.items():
        async with client_of(app) as client:
            # Mailed three times, then no more.
            for attempt in range(5):
                with watched(services, monkeypatch) as work:
                    accepted(await client.post(path, json=body), 202)
                done[kind, attempt] = work
    for attempt in range(5):
        for kind in kinds:
            assert done[kind, attempt] == done["known", attempt], (kind, attempt)
        assert not done["known", attempt].hashes
        assert bool(done["known", attempt].statements) == (attempt < 3)
