"""Whoever signs in from a place that is new is told so by mail."""

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI

from app.models import MailTemplate
from app.services.places import place_of
from tests.api.answers import accepted, refused
from tests.api.mails import mails
from tests.clients import client_of
from tests.factories import PASSWORD, Factory, Person

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:{0}.0) Gecko/20100101 Firefox/{0}.0"
SAFARI = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15"
HOME, ABROAD = "192.0.2.10", "198.51.100.7"


async def newcomer_in(factory: Factory) -> Person:
    """Make a person who has never signed in."""
    person = await factory.person()
    await factory.run("DELETE FROM sessions WHERE user_id = :id", id=person.user.id)
    return person


async def sign_in(app: FastAPI, person: Person, address: str, agent: str) -> None:
    async with client_of(app, address, headers={"User-Agent": agent}) as client:
        body = {"email": person.user.email, "password": PASSWORD, "tenant_slug": person.tenant.slug}
        accepted(await client.post("/api/v1/auth/login", json=body))


async def told(factory: Factory, person: Person) -> list[dict[str, Any]]:
    """Return what the mails about new sign-ins say."""
    found = await mails(factory, person.tenant.id, MailTemplate.NEW_SIGN_IN)
    assert all((recipient, subject) == (person.user.email, person.user.id) for recipient, subject, _ in found)
    return [data for *_, data in found]


async def test_the_first_sign_in_of_all_is_no_news(app: FastAPI, factory: Factory) -> None:
    person = await newcomer_in(factory)
    await sign_in(app, person, HOME, FIREFOX.format(128))
    assert await told(factory, person) == []


@pytest.mark.parametrize(("address", "agent"), [(ABROAD, FIREFOX.format(128)), (HOME, SAFARI), ("2001:db8:7::1", FIREFOX.format(128))])
async def test_a_new_place_is_told_with_its_address_and_device(app: FastAPI, factory: Factory, address: str, agent: str) -> None:
    person = await newcomer_in(factory)
    await sign_in(app, person, HOME, FIREFOX.format(128))
    await sign_in(app, person, address, agent)
    assert await told(factory, person) == [{"ip_address": address, "user_agent": agent}]
    await sign_in(app, person, address, agent)
    assert len(await told(factory, person)) == 1


@pytest.mark.parametrize(("address", "agent"), [("192.0.2.200", FIREFOX.format(128)), (HOME, FIREFOX.format(131)), ("::ffff:192.0.2.99", FIREFOX.format(99))])
async def test_a_neighbouring_address_or_a_newer_browser_is_no_news(app: FastAPI, factory: Factory, address: str, agent: str) -> None:
    person = await newcomer_in(factory)
    await sign_in(app, person, HOME, FIREFOX.format(128))
    await sign_in(app, person, address, agent)
    assert await told(factory, person) == []


async def test_sessions_that_have_ended_are_remembered_for_ninety_days(app: FastAPI, factory: Factory) -> None:
    person = await newcomer_in(factory)
    await sign_in(app, person, HOME, SAFARI)
    await sign_in(app, person, ABROAD, SAFARI)
    await factory.run(
        "UPDATE sessions SET revoked_at = now(), expires_at = now() - interval '50 days', created_at = now() - interval '110 days',"
        " last_used_at = now() - interval '89 days' WHERE user_id = :id",
        id=person.user.id,
    )
    await sign_in(app, person, HOME, SAFARI)
    assert len(await told(factory, person)) == 1
    await factory.run("UPDATE sessions SET last_used_at = now() - interval '91 days' WHERE user_id = :id AND ip_address = :ip", id=person.user.id, ip=ABROAD)
    await sign_in(app, person, ABROAD, SAFARI)
    assert len(await told(factory, person)) == 2


@pytest.mark.parametrize("address", [HOME, ABROAD])
async def test_a_sign_in_after_ninety_days_of_absence_is_told_from_wherever(app: FastAPI, factory: Factory, address: str) -> None:
    person = await newcomer_in(factory)
    await sign_in(app, person, HOME, SAFARI)
    await factory.run("UPDATE sessions SET last_used_at = now() - interval '91 days' WHERE user_id = :id", id=person.user.id)
    await sign_in(app, person, address, SAFARI)
    assert await told(factory, person) == [{"ip_address": address, "user_agent": SAFARI}]


async def test_a_sign_in_after_all_sessions_are_purged_is_told(app: FastAPI, factory: Factory) -> None:
    person = await newcomer_in(factory)
    await sign_in(app, person, HOME, SAFARI)
    await factory.run("DELETE FROM sessions WHERE user_id = :id", id=person.user.id)
    await sign_in(app, person, HOME, SAFARI)
    assert await told(factory, person) == [{"ip_address": HOME, "user_agent": SAFARI}]


async def test_whoever_refreshes_daily_and_signed_in_long_ago_is_told_of_a_new_place_and_of_no_known_one(app: FastAPI, factory: Factory) -> None:
    person = await newcomer_in(factory)
    await sign_in(app, person, HOME, SAFARI)
    await factory.run("UPDATE sessions SET created_at = now() - interval '100 days' WHERE user_id = :id", id=person.user.id)
    await factory.run("UPDATE users SET last_login_at = now() - interval '100 days' WHERE id = :id", id=person.user.id)
    await sign_in(app, person, HOME, SAFARI)
    assert await told(factory, person) == []
    await sign_in(app, person, ABROAD, SAFARI)
    assert await told(factory, person) == [{"ip_address": ABROAD, "user_agent": SAFARI}]


async def test_a_place_where_a_session_was_refreshed_is_known(app: FastAPI, factory: Factory) -> None:
    person = await factory.person()
    async with client_of(app, ABROAD, headers={"User-Agent": SAFARI}) as client:
        accepted(await client.post("/api/v1/auth/refresh", json={"refresh_token": person.refresh_token}))
    await sign_in(app, person, ABROAD, SAFARI)
    assert await told(factory, person) == []
    await sign_in(app, person, HOME, SAFARI)
    assert await told(factory, person) == [{"ip_address": HOME, "user_agent": SAFARI}]


async def test_of_two_first_sign_ins_at_once_one_is_told(app: FastAPI, factory: Factory) -> None:
    person = await newcomer_in(factory)
    await asyncio.gather(*(sign_in(app, person, address, SAFARI) for address in (HOME, ABROAD)))
    assert len(await told(factory, person)) == 1


async def test_a_refused_sign_in_is_not_told(app: FastAPI, factory: Factory) -> None:
    person = await newcomer_in(factory)
    await sign_in(app, person, HOME, SAFARI)
    async with client_of(app, ABROAD) as client:
        body = {"email": person.user.email, "password": "a wrong passphrase", "tenant_slug": person.tenant.slug}
        refused(await client.post("/api/v1/auth/login", json=body), 401, "invalid_credentials")
    assert await told(factory, person) == []


async def test_a_program_with_a_new_name_each_time_floods_nobody(app: FastAPI, factory: Factory) -> None:
    person = await newcomer_in(factory)
    for letter in "abcdefgh":
        await sign_in(app, person, HOME, f"Browser {letter}")
    assert len(await told(factory, person)) == 5


def test_a_place_is_a_network_and_a_browser_without_its_version() -> None:
    assert place_of("192.0.2.10", "curl/8.5.0") == ("192.0.2.0/24", "curl/")
    assert place_of("2001:db8:1:2::3", None) == ("2001:db8:1::/48", "")
    assert place_of(None, None) == ("", "")
