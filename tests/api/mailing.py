"""What the tests of mailed links share: a client of its own for each, and what was asked for."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from app.models import Tenant
from tests.api.mails import mails_of
from tests.factories import Factory


@asynccontextmanager
async def client_elsewhere(app: FastAPI, address: str | None = None, **headers: str) -> AsyncIterator[AsyncClient]:
    """Give a client from an address that nobody else has, so that no other test has used up what it may ask for."""
    address = address or f"2001:db8:{uuid4().hex[:4]}:{uuid4().hex[:4]}::1"
    transport = ASGITransport(app, raise_app_exceptions=False, client=(address, 1))
    async with AsyncClient(transport=transport, base_url="http://testserver", headers=headers) as client:
        yield client


async def mails(factory: Factory, tenant_id: UUID, template: str | None = None) -> list[tuple[Any, ...]]:
    """Return recipient, subject and data of the tenant's mails, in order; each has its job."""
    asked = await mails_of(factory, Tenant(id=tenant_id))
    assert all(mail.has_job for mail in asked)
    return [(mail.recipient, mail.subject_id, mail.data) for mail in asked if template in (None, mail.template)]
