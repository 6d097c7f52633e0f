"""HTTP clients of the application, each from an address that nobody else has: what is counted by address in one test counts in no other."""

from typing import Any
from uuid import uuid4

from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

BASE_URL = "http://testserver"


def fresh_address() -> str:
    """Return an address in a network that nobody else has (RFC 3849: for documentation alone)."""
    network = uuid4().hex
    return f"2001:db8:{network[:4]}:{network[4:8]}::1"


def client_of(app: FastAPI, address: str | None = None, *, raise_app_exceptions: bool = False, base_url: str = BASE_URL, **options: Any) -> AsyncClient:
    """Return a client that calls the application in this process, from the given address or a fresh one. `options` are httpx's."""
    transport = ASGITransport(app, raise_app_exceptions=raise_app_exceptions, client=(address or fresh_address(), 50_000))
    return AsyncClient(transport=transport, base_url=base_url, **options)
