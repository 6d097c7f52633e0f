"""Registration, sign-in, and who the caller is."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.config import JsonDict

from app.core.captcha import LONGEST_SOLUTION
from app.schemas.common import Body, Email, Name, Password, Read, Slug, Text
from app.schemas.tenant import TENANT_EXAMPLE, TenantRead, TenantSummary
from app.schemas.user import USER_EXAMPLE, UserRead

MAIL_REQUESTED = "If there is such an account, a mail is on its way."
TOKEN_EXAMPLE = "AZjA3gAAcACAAAAA…"  # noqa: S105 (an example)
_EMAIL: TypeAdapter[str] = TypeAdapter(Email)
_SUMMARY: JsonDict = {name: TENANT_EXAMPLE[name] for name in ("id", "slug", "subdomain", "name")}


Solution = Annotated[Text, Field(max_length=LONGEST_SOLUTION, description="A solved challenge, where the installation demands one")]


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
    captcha: Solution | None = None


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


AnyEmail = Annotated[Text, AfterValidator(as_registered), Field(max_length=320)]
AnyPassword = Annotated[Text, Field(max_length=1024)]
AnySlug = Annotated[Text, Field(max_length=100)]
Token = Annotated[Text, Field(max_length=200)]


class Credentials(Body):
    """What a person signs in with."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"email": "admin@example.com", "password": "try-acme-locally", "tenant_slug": "acme"}}
    )

    # No rules beyond length: what could never have been registered is simply wrong, and says no more than that.
    email: AnyEmail
    password: AnyPassword
    tenant_slug: AnySlug
    # For a second factor, when there are any. Until then one that is sent is refused: what is meant to protect must not be overlooked.
    otp: None = None


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


class Account(Body):
    """Somebody's address in a tenant. No rules beyond length, as above."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"email": "admin@example.com", "tenant_slug": "acme"}})

    email: AnyEmail
    tenant_slug: AnySlug


class ForgottenPassword(Account):
    """Whose password is forgotten."""

    captcha: Solution | None = None


class MailRequested(BaseModel):
    """The answer where a mail was asked for, whoever it is for."""

    model_config = ConfigDict(json_schema_extra={"example": {"detail": MAIL_REQUESTED}})

    detail: str = MAIL_REQUESTED


class MailedToken(Body):
    """The token of a mailed link."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"token": TOKEN_EXAMPLE}})

    token: Token


class NewPassword(MailedToken):
    """A new password, and the token of the link that was mailed for it."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"token": TOKEN_EXAMPLE, "password": "a longer passphrase"}})

    password: Password


class PasswordChange(Body):
    """The password as it is, and as it shall be."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"current_password": "a long passphrase", "new_password": "a longer passphrase"}})

    current_password: AnyPassword
    new_password: Password


class ChallengeParameters(BaseModel):
    """What is to be found, in ALTCHA's names."""

    algorithm: str
    cost: int
    key_length: int = Field(alias="keyLength")
    key_prefix: str = Field(alias="keyPrefix")
    key_signature: str = Field(alias="keySignature")
    nonce: str
    salt: str
    expires_at: int = Field(alias="expiresAt", description="Unix time")


class Challenge(BaseModel):
    """A proof-of-work challenge. It has to come back as it is: the signature covers all of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "parameters": {
                    "algorithm": "PBKDF2/SHA-256",
                    "cost": 1000,
                    "keyLength": 32,
                    "keyPrefix": "98e18053de155e8f470dfae6736cc9c9",
                    "keySignature": "143a32dda1fb5b06a306b6a5f1c19f1caba76d19f218be1cd3b57fcb084f2a40",
                    "nonce": "2c3820253c1c6dffd72e6a1d519a362d",
                    "salt": "904814cab2365f3d5fefcfdfddfdbf39",
                    "expiresAt": 1790000000,
                },
                "signature": "d32ece9e0e671d8845980eaf14f7ecab5232c376508f6537598523e907b0f98b",
            }
        }
    )

    parameters: ChallengeParameters
    signature: str


class Me(Read):
    """The caller, its tenant, and what its role may do."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"user": USER_EXAMPLE, "tenant": TENANT_EXAMPLE, "permissions": ["projects:read", "projects:create"]}}
    )

    user: UserRead
    tenant: TenantRead
    permissions: list[str]
