"""Every refusal of the API, save those of accounts (app/core/account_exceptions.py): a class with a status, a stable code, and a docstring that is its text.

Refusal
├── BadRequest 400        TenantRequired
├── Unauthenticated 401   NotAuthenticated TokenInvalid TokenExpired TokenRevoked InvalidCredentials
├── Forbidden 403         TenantInactive TenantMismatch AccountInactive RegistrationClosed
├── NotFound 404          TenantNotFound ProjectNotFound
├── MethodNotAllowed 405 · RequestTimeout 408
├── Conflict 409          EmailTaken SlugTaken SubdomainTaken LastAdmin
├── ContentTooLarge 413 · UnsupportedMediaType 415 · HeadTooLarge 431
├── Unprocessable 422     InvalidCursor PageTooDeep WeakPassword OwnerNotFound
├── RateLimited 429
├── InternalError 500
└── Unavailable 503       DatabaseAway Overloaded LimiterAway
"""

from http import HTTPStatus
from typing import Any, ClassVar


class Refusal(Exception):
    """The request was refused."""

    status: ClassVar[int] = 400
    code: ClassVar[str] = "refused"

    def __init__(self, detail: str | None = None, *, headers: dict[str, str] | None = None, **extensions: Any) -> None:
        """Take a `detail` that says more than the class's docstring, response headers, and further members of the problem document."""
        self.detail = detail or (type(self).__doc__ or "").partition("\n")[0]
        self.headers = headers or {}
        self.extensions = extensions
        super().__init__(self.detail)

    @classmethod
    def title(cls) -> str:
        """Return the phrase of the status, which RFC 9457 wants to be the same for each occurrence."""
        return HTTPStatus(cls.status).phrase


class BadRequest(Refusal):
    """The request cannot be understood."""

    status = 400
    code = "bad_request"


class TenantRequired(BadRequest):
    """Name the tenant: with the header X-Tenant-Slug, with the subdomain, or with the header X-Tenant-ID."""

    code = "tenant_required"


class Unauthenticated(Refusal):
    """The caller is not known."""

    status = 401
    code = "not_authenticated"

    def __init__(self, detail: str | None = None, **extensions: Any) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": self.challenge()}, **extensions)

    @classmethod
    def challenge(cls) -> str:
        """Return the WWW-Authenticate challenge (RFC 6750, section 3)."""
        return "Bearer"


class NotAuthenticated(Unauthenticated):
    """Send an access token: Authorization: Bearer <token>. POST /api/v1/auth/login gives one."""


class TokenInvalid(Unauthenticated):
    """The token is not one of ours, or was altered."""

    code = "token_invalid"

    @classmethod
    def challenge(cls) -> str:
        """Name the error, as RFC 6750 asks where a token was sent."""
        return 'Bearer error="invalid_token"'


class TokenExpired(TokenInvalid):
    """The token has expired. Sign in again."""

    code = "token_expired"


class TokenRevoked(TokenInvalid):
    """The token's session or user has ended. Sign in again."""

    code = "token_revoked"


class InvalidCredentials(Unauthenticated):
    """The address, the password or the tenant is wrong."""

    code = "invalid_credentials"


class Forbidden(Refusal):
    """Your role does not allow this."""

    status = 403
    code = "forbidden"


class TenantInactive(Forbidden):
    """This tenant is suspended."""

    code = "tenant_inactive"


class TenantMismatch(Forbidden):
    """The access token belongs to another tenant than the one that the request names."""

    code = "tenant_mismatch"


class AccountInactive(Forbidden):
    """The account is not active. An admin of the tenant activates it."""

    code = "account_inactive"


class RegistrationClosed(Forbidden):
    """This tenant takes new people by invitation only."""

    code = "registration_closed"


class NotFound(Refusal):
    """There is no such object."""

    status = 404
    code = "not_found"


class TenantNotFound(NotFound):
    """There is no such tenant."""

    code = "tenant_not_found"


class ProjectNotFound(NotFound):
    """There is no such project."""

    code = "project_not_found"


class MethodNotAllowed(Refusal):
    """The method is not allowed here."""

    status = 405
    code = "method_not_allowed"


class RequestTimeout(Refusal):
    """The body did not arrive in time."""

    status = 408
    code = "request_timeout"


class Conflict(Refusal):
    """Somebody else has just changed what this request refers to. Look again, and try again."""

    status = 409
    code = "conflict"


class EmailTaken(Conflict):
    """This address is already in use in this tenant."""

    code = "email_taken"


class SlugTaken(Conflict):
    """This slug is in use as another tenant's subdomain. Choose another one."""

    code = "slug_taken"


class SubdomainTaken(Conflict):
    """This subdomain is in use. Choose another one."""

    code = "subdomain_taken"


class LastAdmin(Conflict):
    """A tenant needs an active admin, and this is its last one."""

    code = "last_admin"


class ContentTooLarge(Refusal):
    """The body is too large."""

    status = 413
    code = "content_too_large"


class UnsupportedMediaType(Refusal):
    """The body must be application/json."""

    status = 415
    code = "unsupported_media_type"


class HeadTooLarge(Refusal):
    """The request has too many headers, or too long ones."""

    status = 431
    code = "headers_too_large"


class Unprocessable(Refusal):
    """The request is understood, but a value in it is not acceptable."""

    status = 422
    code = "validation_error"
    location: ClassVar[tuple[str, ...]] = ()

    def __init__(self, detail: str | None = None, *, errors: list[dict[str, Any]] | None = None, location: tuple[str, ...] | None = None) -> None:
        """Take which values are not acceptable: `errors`, or the one at `location`."""
        super().__init__(detail)
        self.extensions["errors"] = errors or [{"loc": location or self.location, "msg": self.detail, "type": self.code}]


class InvalidCursor(Unprocessable):
    """The cursor is not one of this list: it was altered, or belongs to other filters, another sort or another tenant."""

    code = "invalid_cursor"
    location = ("query", "cursor")


class PageTooDeep(Unprocessable):
    """Pages end at 10,000 rows. Go on with `cursor`: it has no such limit, and costs the same at any depth."""

    code = "page_too_deep"
    location = ("query", "page")


class WeakPassword(Unprocessable):
    """The password is too easy to guess."""

    code = "weak_password"
    location = ("body", "password")


class OwnerNotFound(Unprocessable):
    """`owner_id` must be a user of this tenant."""

    code = "owner_not_found"
    location = ("body", "owner_id")


class RateLimited(Refusal):
    """Too many requests. Wait for as many seconds as Retry-After says."""

    status = 429
    code = "rate_limited"


class Unavailable(Refusal):
    """The service cannot answer at the moment. Try again shortly."""

    status = 503
    code = "unavailable"

    def __init__(self, detail: str | None = None, *, retry_after: int = 1, **extensions: Any) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)}, **extensions)


class DatabaseAway(Unavailable):
    """The database cannot be reached at the moment. Try again shortly."""

    code = "database_unavailable"


class Overloaded(Unavailable):
    """The service is busier than it can bear. Try again shortly."""

    code = "overloaded"


class LimiterAway(Unavailable):
    """Requests cannot be counted at the moment, and this installation then admits none. Try again shortly."""

    code = "rate_limiter_unavailable"


class InternalError(Refusal):
    """Something went wrong here. Quote the request_id when you report it."""

    status = 500
    code = "internal_error"
