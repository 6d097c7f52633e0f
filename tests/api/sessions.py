"""Sessions as tests handle them: refreshed through the API, looked at and moved through time in the database."""

from typing import Any
from uuid import UUID

from httpx import AsyncClient, Response

from tests.api.answers import accepted, refused
from tests.factories import Factory, Person

REFRESH = "/api/v1/auth/refresh"
ME = "/api/v1/auth/me"


async def refresh(client: AsyncClient, token: str, **headers: str) -> Response:
    """Present a refresh token."""
    return await client.post(REFRESH, json={"refresh_token": token}, headers=headers)


async def successor(client: AsyncClient, token: str) -> str:
    """Present a refresh token that is good, and return the new one."""
    answer: dict[str, str] = accepted(await refresh(client, token))
    return answer["refresh_token"]


def headers_with(access_token: str, person: Person) -> dict[str, str]:
    """Return the headers of a person's requests with another access token."""
    return {**person.headers, "Authorization": f"Bearer {access_token}"}


async def row_of(factory: Factory, session_id: UUID) -> Any:
    """Return what PostgreSQL holds of a session."""
    (row,) = await factory.run("SELECT * FROM sessions WHERE id = :id", id=session_id)
    return row


async def let_pass(factory: Factory, session_id: UUID, seconds: float) -> None:
    """Have the session's last refreshes be so much longer ago."""
    await factory.run(
        "UPDATE sessions SET refreshed_at = refreshed_at - make_interval(secs => :seconds),"
        " earlier_refreshes = ARRAY(SELECT at - make_interval(secs => :seconds) FROM unnest(earlier_refreshes) WITH ORDINALITY AS e (at, place) ORDER BY place)"
        " WHERE id = :id",
        seconds=seconds,
        id=session_id,
    )


async def assert_dead(client: AsyncClient, factory: Factory, person: Person, *refresh_tokens: str) -> None:
    """Assert that a session has ended in PostgreSQL, and with it all of its tokens."""
    assert (await row_of(factory, person.session_id)).revoked_at is not None
    refused(await client.get(ME, headers=person.headers), 401, "token_revoked")
    for token in refresh_tokens:
        refused(await refresh(client, token), 401, "token_revoked")
