"""Users, as clients see them. No schema that is answered has a password or its hash."""

from typing import Literal
from uuid import UUID

from pydantic import ConfigDict, StrictBool
from pydantic.config import JsonDict

from app.models import Role
from app.schemas.common import EXAMPLE_ID, EXAMPLE_TIME, Body, Change, Email, Listed, Name, NotNull, Password, Read, Search, Time

USER_EXAMPLE: JsonDict = {
    "id": str(EXAMPLE_ID),
    "email": "admin@example.com",
    "full_name": "Ada Admin",
    "role": "admin",
    "is_active": True,
    "email_verified": False,
    "created_at": EXAMPLE_TIME,
    "updated_at": EXAMPLE_TIME,
    "last_login_at": EXAMPLE_TIME,
}


class UserRead(Read):
    """A user."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"example": USER_EXAMPLE})

    id: UUID
    email: str
    full_name: str
    role: Role
    is_active: bool
    email_verified: bool
    created_at: Time
    updated_at: Time
    last_login_at: Time | None


class UserCreate(Body):
    """A new user. Without a password the user is mailed a link to choose one."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"email": "member@example.com", "full_name": "Mel Member", "role": "member", "password": "a long passphrase"}},
    )

    email: Email
    full_name: Name
    role: Role = Role.VIEWER
    password: Password | None = None


class UserUpdate(Change):
    """A change to a user. `role` and `is_active` are an admin's to change."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"full_name": "Mel M. Member", "role": "viewer"}})

    full_name: NotNull[Name] = None
    email: NotNull[Email] = None
    role: NotNull[Role] = None
    is_active: NotNull[StrictBool] = None


class UserList(Listed):
    """Filters and sorts of the list of users."""

    sort: Literal["created_at", "-created_at", "email", "-email", "full_name", "-full_name"] = "-created_at"
    role: Role | None = None
    is_active: bool | None = None
    q: Search | None = None
