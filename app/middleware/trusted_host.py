"""Refuses hosts that are not ours, and believes forwarding headers only from proxies that we trust."""

from collections.abc import Awaitable
from ipaddress import ip_address, ip_network

from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.exceptions import BadRequest

# Where a request's headers are kept by name: they are looked at some ten times, and browsers send fifteen.
BY_NAME = "app.headers_by_name"

# Of two lines of these, each part of the service might read another one (RFC 9110, section 5.3).
ONCE = frozenset({b"authorization", b"host", b"x-tenant-id", b"x-tenant-slug"})

HEALTH_PATHS = frozenset({"/health", "/health/live", "/health/ready"})


class InvalidHost(BadRequest):
    """This host is not served here."""

    code = "invalid_host"


class AmbiguousHeader(BadRequest):
    """A header that says whom the request is for, or by whom, must be there once."""

    code = "ambiguous_header"


class TrustedHostMiddleware:
    """Checks the Host header against ALLOWED_HOSTS: exact names, `*.example.com` for everything below a domain, or `*`.

    Not for /health: load balancers and containers ask by address. That there is one, and only one, is demanded of everybody (RFC 9112, section 3.2).
    """

    def __init__(self, app: ASGIApp, allowed_hosts: tuple[str, ...]) -> None:
        self.app = app
        self._any = "*" in allowed_hosts
        self._exact = frozenset(host.lower() for host in allowed_hosts if not host.startswith("*."))
        self._suffixes = tuple(host[1:].lower() for host in allowed_hosts if host.startswith("*."))

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            _refuse_ambiguous(scope)
            self._refuse_foreign(scope)
        return self.app(scope, receive, send)

    def _refuse_foreign(self, scope: Scope) -> None:
        if not self._any and scope["path"] not in HEALTH_PATHS:
            host = without_port(header(scope, b"host") or "").lower()
            if host not in self._exact and not host.endswith(self._suffixes or ("\0",)):
                raise InvalidHost


class TrustedProxyMiddleware:
    """Where the peer is one of TRUSTED_PROXIES, takes the client's address, host and scheme from X-Forwarded-For, -Host and -Proto.

    A proxy may add a line of its own behind the client's, so the last one counts, and of X-Forwarded-For all together.
    """

    def __init__(self, app: ASGIApp, trusted_proxies: tuple[str, ...]) -> None:
        self.app = app
        self._networks = tuple(ip_network(proxy, strict=False) for proxy in trusted_proxies)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        client = scope.get("client")
        if scope["type"] == "http" and client is not None and self._trusts(client[0]):
            scope = dict(scope)
            scope["client"] = (self._client_of(client[0], ",".join(lines(scope, b"x-forwarded-for"))), 0)
            if (host := _last(scope, b"x-forwarded-host")) is not None:
                scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"host"] + [(b"host", host.encode("latin-1"))]
            if (scheme := (_last(scope, b"x-forwarded-proto") or "").lower()) in ("http", "https"):
                scope["scheme"] = scheme
        return self.app(scope, receive, send)

    def _client_of(self, peer: str, chain: str) -> str:
        """Return the last address of the chain that is no proxy of ours: each proxy appends the one it saw, and what stands before that is hearsay.

        Where there is none, or a proxy of ours passes on what is no address, nobody knows the client's, and the peer's has to do.
        """
        for part in reversed([part.strip() for part in chain.split(",") if part.strip()]):
            address = address_in(part)
            if address is None:
                break
            if not self._trusts(address):
                return address
        return peer

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)


def _refuse_ambiguous(scope: Scope) -> None:
    host = header(scope, b"host")
    # Where every name is there once, which is so for almost every request, there is nothing to look for.
    twice = len(scope[BY_NAME]) < len(scope["headers"]) and any(len(lines(scope, name)) > 1 for name in ONCE)
    if twice or (host is None and scope["http_version"] != "1.0"):
        raise AmbiguousHeader


def _last(scope: Scope, name: bytes) -> str | None:
    found = lines(scope, name)
    return found[-1] if found else None


def lines(scope: Scope, name: bytes) -> list[str]:
    """Return every line of that lower-case name."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def address_in(text: str) -> str | None:
    """Return the IP address, without the port that some proxies add: `203.0.113.9:4711`, `[2001:db8::1]:4711`. None where there is none."""
    for candidate in (text, without_port(text)):
        try:
            return str(ip_address(candidate))
        except ValueError:
            continue
    return None


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
