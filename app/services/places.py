"""Where people are known: by address and browser to notice what is new, and by address alone to tell them from strangers who guess."""

import re
from collections.abc import Iterable
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Text, func, select, union_all
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.networks import network_of
from app.models import OneTimeToken, Session, TokenPurpose, User

REMEMBERED = timedelta(days=90)
# Long enough to sign in after a reset.
RESET_REMEMBERED = timedelta(hours=1)
# Nobody signs in from so many places; a program that does learns nothing from our mail.
MOST_PLACES = 1_000
IPV4_BITS, IPV6_BITS = 24, 48
# So few that it cannot be told by the time how many there are.
MOST_NETWORKS = 50
# A browser updates itself every few weeks: another version is no other browser.
_VERSIONS = re.compile(r"[\d._]+")


def place_of(ip_address: str | None, user_agent: str | None) -> tuple[str, str]:
    """Return the place: the network, and the browser with its operating system, without versions."""
    return network_of(ip_address or "", IPV4_BITS, IPV6_BITS), _VERSIONS.sub("", user_agent or "")


async def is_new_place(session: AsyncSession, user: User, ip_address: str | None, user_agent: str | None) -> bool:
    """Whether the user has signed in before, and no session was used there during the last 90 days.

    To be asked before the new session is added, with the user as they were before they signed in.
    """
    lately = (
        select(Session.ip_address, Session.user_agent)
        .where(Session.tenant_id == user.tenant_id, Session.user_id == user.id, Session.last_used_at > func.now() - REMEMBERED)
        .distinct()
        .limit(MOST_PLACES)
    )
    known = {place_of(*row) for row in await session.execute(lately)}
    # Of two first sign-ins at once, the second one sees the session of the first.
    signed_in_before = user.last_login_at is not None or bool(known)
    return signed_in_before and place_of(ip_address, user_agent) not in known


def known_addresses(tenant_id: UUID) -> ColumnElement[list[str]]:
    """Return a column for a query of a `User` of the tenant: from where their sessions were used in 90 days, and their password reset within the hour.

    A column, so that whoever is known nowhere, or does not exist, is asked for by the same statement.
    """
    now = func.now()
    used = (
        select(Session.ip_address)
        .where(
            Session.tenant_id == tenant_id,
            User.tenant_id == tenant_id,
            Session.user_id == User.id,
            Session.last_used_at > now - REMEMBERED,
            Session.ip_address.is_not(None),
        )
        .group_by(Session.ip_address)
        .order_by(func.max(Session.last_used_at).desc())
        .limit(MOST_NETWORKS)
    )
    resets = select(OneTimeToken.used_from).where(
        OneTimeToken.tenant_id == tenant_id,
        User.tenant_id == tenant_id,
        OneTimeToken.user_id == User.id,
        OneTimeToken.purpose == TokenPurpose.RESET_PASSWORD,
        OneTimeToken.used_at > now - RESET_REMEMBERED,
        OneTimeToken.used_from.is_not(None),
    )
    both = union_all(used.correlate(User), resets.correlate(User))
    return func.array(both.scalar_subquery(), type_=ARRAY(Text()))


def known_network(ip_address: str | None, addresses: Iterable[str]) -> str:
    """Return the network of an address if one of the others lies in it, and nothing if none does."""
    if ip_address is None:
        return ""
    network = network_of(ip_address)
    return network if network in {network_of(address) for address in set(addresses)} else ""
