"""Refuses hosts that are not ours, and believes forwarding headers only from proxies that we trust."""

from ipaddress import ip_address, ip_network

from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.exceptions import BadRequest

# Where a request's headers are kept by name: they are looked at some ten times, and browsers send fifteen.
BY_NAME = "app.headers_by_name"

HEALTH_PATHS = frozenset({"/health", "/health/live", "/health/ready"})


class InvalidHost(BadRequest):
    """This host is not served here."""

    code = "invalid_host"


class TrustedHostMiddleware:
    """Checks the Host header against ALLOWED_HOSTS: exact names, `*.example.com` for everything below a domain, or `*`.

    Not for /health: load balancers and containers ask by address.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: tuple[str, ...]) -> None:
        self.app = app
        self._any = "*" in allowed_hosts
        self._exact = frozenset(host.lower() for host in allowed_hosts if not host.startswith("*."))
        self._suffixes = tuple(host[1:].lower() for host in allowed_hosts if host.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._any and scope["path"] not in HEALTH_PATHS:
            host = without_port(header(scope, b"host") or "").lower()
            if host not in self._exact and not host.endswith(self._suffixes or ("\0",)):
                raise InvalidHost
        await self.app(scope, receive, send)


class TrustedProxyMiddleware:
    """Where the peer is one of TRUSTED_PROXIES, takes the client's address, host and scheme from X-Forwarded-For, -Host and -Proto."""

    def __init__(self, app: ASGIApp, trusted_proxies: tuple[str, ...]) -> None:
        self.app = app
        self._networks = tuple(ip_network(proxy, strict=False) for proxy in trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        if scope["type"] == "http" and client is not None and self._trusts(client[0]):
            scope = dict(scope)
            # Each proxy appends the address it saw, so the last one that is no proxy of ours is the client; what stands before it is hearsay.
            chain = [part.strip() for part in (header(scope, b"x-forwarded-for") or "").split(",") if part.strip()]
            address = next((part for part in reversed(chain) if not self._trusts(part)), client[0])
            scope["client"] = (address, 0)
            if (host := header(scope, b"x-forwarded-host")) is not None:
                del scope[BY_NAME]
                scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"host"] + [(b"host", host.encode("latin-1"))]
            if (scheme := header(scope, b"x-forwarded-proto")) in ("http", "https"):
                scope["scheme"] = scheme
        await self.app(scope, receive, send)

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first header of that lower-case name."""
    found: dict[bytes, bytes] | None = scope.get(BY_NAME)
    if found is None:
        found = scope[BY_NAME] = dict(reversed(scope["headers"]))
    value = found.get(name)
    return None if value is None else value.decode("latin-1")


def without_port(host: str) -> str:
    """Return the host alone, without brackets for IPv6 and without the port."""
    if host.startswith("["):
        return host.partition("]")[0][1:]
    return host.partition(":")[0]
