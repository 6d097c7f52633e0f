"""Registration, sign-in, and who the caller is."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.config import JsonDict

from app.schemas.common import Body, Email, Name, Password, Read, Slug, Text
from app.schemas.tenant import TENANT_EXAMPLE, TenantRead, TenantSummary
from app.schemas.user import USER_EXAMPLE, UserRead

_EMAIL: TypeAdapter[str] = TypeAdapter(Email)
_SUMMARY: JsonDict = {name: TENANT_EXAMPLE[name] for name in ("id", "slug", "subdomain", "name")}


class Registration(Body):
    """A newcomer: with a free slug the founder of a tenant, with a slug that exists a person who wants to join it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "email": "admin@example.com",
                "password": "a long passphrase",
                "full_name": "Ada Admin",
                "tenant_slug": "acme-two",
                "tenant_name": "Acme",
            }
        },
    )

    email: Email
    password: Password
    full_name: Name
    tenant_slug: Slug
    tenant_name: Name | None = None
    invitation_token: Annotated[Text, Field(max_length=200)] | None = None


class Registered(UserRead):
    """The new user, and the tenant it belongs to."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"example": {**USER_EXAMPLE, "tenant": _SUMMARY}})

    tenant: TenantSummary


def as_registered(email: str) -> str:
    """Return the address in the form in which registration keeps it; what is no address stays as it is, and will not be found."""
    try:
        return _EMAIL.validate_python(email)
    except ValidationError:
        return email.strip().lower()


class Credentials(Body):
    """What a person signs in with."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"email": "admin@example.com", "password": "try-acme-locally", "tenant_slug": "acme"}}
    )

    # No rules beyond length: what could never have been registered is simply wrong, and says no more than that.
    email: Annotated[Text, AfterValidator(as_registered)] = Field(max_length=320)
    password: Text = Field(max_length=1024)
    tenant_slug: Text = Field(max_length=100)


class SignedIn(BaseModel):
    """A session's tokens. Times are in seconds."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "access_token": "eyJhbGciOiJIUzI1NiIs…",
                "token_type": "bearer",
                "expires_in": 1800,
                "refresh_token": "b1V0…",
                "refresh_expires_in": 2592000,
                "user": USER_EXAMPLE,
            }
        }
    )

    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 (RFC 6750)
    expires_in: int
    refresh_token: str
    refresh_expires_in: int
    user: UserRead


class Me(Read):
    """The caller, its tenant, and what its role may do."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"user": USER_EXAMPLE, "tenant": TENANT_EXAMPLE, "permissions": ["projects:read", "projects:create"]}}
    )

    user: UserRead
    tenant: TenantRead
    permissions: list[str]
