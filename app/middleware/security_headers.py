"""Headers that tell browsers what they may do with our answers."""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Receive, Scope, Send

from app.middleware.request_context import add_headers

DOCUMENTATION_POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; frame-ancestors 'none'"
API_POLICY = "default-src 'none'; frame-ancestors 'none'"
ACCOUNT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
ACCOUNT_PATHS = "/account/"
DOCUMENTATION_PATHS = ("/docs", "/redoc")

COMMON = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class SecurityHeadersMiddleware:
    """Adds the security headers; over HTTPS Strict-Transport-Security too. Answers of the API are never stored by caches."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            path: str = scope["path"]
            documentation = path.startswith(DOCUMENTATION_PATHS)
            scope["state"]["response_headers"] += _DOCUMENTATION if documentation else _ACCOUNT if path.startswith(ACCOUNT_PATHS) else _API
            if not documentation and not path.startswith("/static"):
                scope["state"]["response_headers"].append((b"cache-control", b"no-store"))
            if scope["scheme"] == "https":
                add_headers(scope, {"Strict-Transport-Security": "max-age=31536000; includeSubDomains"})
        return self.app(scope, receive, send)


def _encoded(policy: str) -> list[tuple[bytes, bytes]]:
    headers = {**COMMON, "Content-Security-Policy": policy}
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


_API = _encoded(API_POLICY)
_ACCOUNT = _encoded(ACCOUNT_POLICY)
_DOCUMENTATION = _encoded(DOCUMENTATION_POLICY)
