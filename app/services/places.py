"""Where people sign in from, as well as an address and a browser's name tell."""

import re
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.networks import network_of
from app.models import Session

REMEMBERED = timedelta(days=90)
# Nobody signs in from so many places; a program that does learns nothing from our mail.
MOST_PLACES = 1_000
IPV4_BITS, IPV6_BITS = 24, 48
# A browser updates itself every few weeks: another version is no other browser.
_VERSIONS = re.compile(r"[\d._]+")


def place_of(ip_address: str | None, user_agent: str | None) -> tuple[str, str]:
    """Return the place: the network, and the browser with its operating system, without versions."""
    return network_of(ip_address or "", IPV4_BITS, IPV6_BITS), _VERSIONS.sub("", user_agent or "")


async def is_new_place(session: AsyncSession, tenant_id: UUID, user_id: UUID, ip_address: str | None, user_agent: str | None) -> bool:
    """Whether the user has signed in during the last 90 days, and never from there. To be asked before the new session is added."""
    lately = (
        select(Session.ip_address, Session.user_agent)
        .where(Session.tenant_id == tenant_id, Session.user_id == user_id, Session.created_at > func.now() - REMEMBERED)
        .distinct()
        .limit(MOST_PLACES)
    )
    known = {place_of(*row) for row in await session.execute(lately)}
    return bool(known) and place_of(ip_address, user_agent) not in known
