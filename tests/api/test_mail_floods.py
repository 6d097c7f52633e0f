"""Nobody can have a stranger flooded with mail, by whatever call, nor from however many tenants."""

from uuid import uuid4

from httpx import AsyncClient

from app.services.account_mail import FOR_SENDER, TO_STRANGER, may_mail_stranger
from app.services.container import Services
from tests.api.answers import accepted, refused
from tests.factories import PASSWORD, Factory

INVITATIONS = "/api/v1/users/invitations"
REGISTER = "/api/v1/auth/register"


def stranger() -> str:
    return f"{uuid4().hex[:16]}@example.com"


async def use_up(services: Services, email: str) -> None:
    for _ in range(TO_STRANGER.free):
        assert await may_mail_stranger(services, email)


async def mails_to(factory: Factory, email: str) -> int:
    ((number,),) = await factory.run("SELECT count(*) FROM mails WHERE recipient = :email", email=email)
    return int(number)


async def test_an_address_is_invited_so_often_and_then_not_for_an_hour(client: AsyncClient, factory: Factory) -> None:
    admin, email = await factory.person(), stranger()
    for _ in range(TO_STRANGER.free):
        accepted(await client.post(INVITATIONS, json={"email": email, "role": "viewer"}, headers=admin.headers), 201)
    answer = await client.post(INVITATIONS, json={"email": email, "role": "viewer"}, headers=admin.headers)
    refused(answer, 429, "mail_throttled")
    assert 0 < int(answer.headers["retry-after"]) <= 3600
    assert await mails_to(factory, email) == TO_STRANGER.free


async def test_other_tenants_and_other_calls_count_together(client: AsyncClient, factory: Factory, services: Services) -> None:
    email = stranger()
    await use_up(services, email)
    for _ in range(2):
        person = await factory.person()
        refused(await client.post(INVITATIONS, json={"email": email, "role": "viewer"}, headers=person.headers), 429, "mail_throttled")
        new = {"email": email, "full_name": "Somebody"}
        refused(await client.post("/api/v1/users", json=new, headers=person.headers), 429, "mail_throttled")
        refused(await client.patch(f"/api/v1/users/{person.user.id}", json={"email": email}, headers=person.headers), 429, "mail_throttled")
    assert await mails_to(factory, email) == 0


async def test_one_who_founds_tenant_after_tenant_in_a_stranger_s_name_has_no_more_mail_sent(client: AsyncClient, factory: Factory, services: Services) -> None:
    email = stranger()
    await use_up(services, email)
    newcomer = {"email": email, "password": PASSWORD, "full_name": "Somebody", "tenant_slug": f"t-{uuid4().hex[:12]}"}
    accepted(await client.post(REGISTER, json=newcomer), 201)
    assert await mails_to(factory, email) == 0


async def test_a_user_has_so_many_mails_sent_and_then_none_for_an_hour(client: AsyncClient, factory: Factory, services: Services) -> None:
    admin, other = await factory.person(), await factory.person()
    for _ in range(FOR_SENDER.free):
        assert await services.throttle.take(f"mail from\0{admin.user.id}", FOR_SENDER)
    refused(await client.post(INVITATIONS, json={"email": stranger(), "role": "viewer"}, headers=admin.headers), 429, "mail_throttled")
    accepted(await client.post(INVITATIONS, json={"email": stranger(), "role": "viewer"}, headers=other.headers), 201)


async def test_taking_a_new_address_back_is_no_mail(client: AsyncClient, factory: Factory, services: Services) -> None:
    person = await factory.person()
    await use_up(services, person.user.email)
    accepted(await client.patch(f"/api/v1/users/{person.user.id}", json={"email": person.user.email}, headers=person.headers))
