"""Which tenant a request belongs to, and what is known of it."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID

import asyncpg
from sqlalchemy import bindparam, select

from app.core.stamps import Stamp, StampedCache
from app.database import Database, Query
from app.models import Tenant

NAME_PATTERN = r"^[a-z0-9](?:[a-z0-9-]{1,61}[a-z0-9])$"
_NAME = re.compile(NAME_PATTERN)
RESERVED_NAMES = frozenset(
    """
    admin administrator api app assets auth autodiscover billing blog cdn dashboard dev docs email ftp health help imap internal localhost login
    mail metrics mx ns1 ns2 oauth openapi pop public redoc root signup smtp sso staging static status support system test webmail www
    """.split()  # noqa: SIM905 (a list of words is easier to read than a list of literals)
)


@dataclass(frozen=True, slots=True)
class TenantInfo:
    """A tenant as the request path needs it."""

    id: UUID
    slug: str
    subdomain: str | None
    name: str
    is_active: bool
    subscription_tier: str
    rate_limit_per_minute: int | None
    rate_limit_burst: int | None
    registration_policy: str
    created_at: datetime
    updated_at: datetime


class TenantName(NamedTuple):
    """How a request names its tenant."""

    kind: Literal["slug", "subdomain", "id"]
    value: str


_COLUMNS = [getattr(Tenant, name) for name in TenantInfo.__dataclass_fields__]
_FIND = {
    "slug": Query(select(*_COLUMNS).where(Tenant.slug == bindparam("value"))),
    "subdomain": Query(select(*_COLUMNS).where(Tenant.subdomain == bindparam("value"))),
    "id": Query(select(*_COLUMNS).where(Tenant.id == bindparam("value"))),
}


def is_valid_name(name: str) -> bool:
    """Whether the text can be a slug or a subdomain: its form is right, and it is not reserved."""
    return _NAME.match(name) is not None and "--" not in name[2:4] and name not in RESERVED_NAMES


def name_in_request(slug: str | None, host: str | None, tenant_id: str | None, base_domain: str | None) -> TenantName | None:
    """Return how the request names its tenant: the slug's header, else the subdomain, else the identifier's header; None where it does not."""
    if slug is not None:
        return TenantName("slug", slug.strip().lower())
    if (subdomain := subdomain_of(host, base_domain)) is not None:
        return TenantName("subdomain", subdomain)
    if tenant_id is not None:
        return TenantName("id", tenant_id.strip().lower())
    return None


def subdomain_of(host: str | None, base_domain: str | None) -> str | None:
    """Return the one label before the base domain: `acme` of `acme.example.com:8000`. None for the domain itself, anything deeper, or a bare IP.

    None too for what no tenant can be called: the service itself is served at names such as `api.example.com`.
    """
    if not host or not base_domain:
        return None
    label, separator, rest = host.rsplit(":", 1)[0].lower().rstrip(".").partition(".")
    return label if separator and rest == base_domain.lower() and label and label not in RESERVED_NAMES else None


class TenantDirectory:
    """Finds tenants, in the process's memory where the stamps allow it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cache: StampedCache[TenantName, TenantInfo] = StampedCache()

    def remembered(self, name: TenantName) -> TenantInfo | None:
        """Return the tenant as it was some minutes ago, if it is remembered: good enough to know whose buckets to take from. It was active then."""
        return self._cache.peek(name)

    async def confirm(self, name: TenantName, stamp: Stamp | None) -> TenantInfo | None:
        """Return the tenant as it is now, given the stamp that its buckets were read with."""
        current = None if stamp is None else Stamp(stamp.tenant, epoch=stamp.epoch)
        tenant = self._cache.get(name, current)
        if tenant is None:
            tenant = await self.load(name)
            # A suspended tenant is looked up each time, so that it is back the moment it is active again.
            if tenant is not None and tenant.is_active and current is not None:
                self._cache.put(name, tenant, current)
        return tenant

    async def load(self, name: TenantName) -> TenantInfo | None:
        """Return the tenant from PostgreSQL, or None where there is none of that name."""
        value: str | UUID = name.value
        if name.kind == "id":
            try:
                value = UUID(name.value)
            except ValueError:
                return None
        elif not _NAME.match(name.value):
            return None
        async with self._database.read(None) as reader:
            row = await reader.fetch_one(_FIND[name.kind], value=value)
        return None if row is None else tenant_info(row)


def tenant_info(row: asyncpg.Record) -> TenantInfo:
    """Return the tenant of a row that has the columns of `TenantInfo`, in order."""
    return TenantInfo(*row.values())
