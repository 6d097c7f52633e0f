"""Invitations, as admins see them. No answer holds an invitation's token: that goes to the invited address alone."""

from typing import Literal
from uuid import UUID

from pydantic import ConfigDict
from pydantic.config import JsonDict

from app.models import Role
from app.schemas.common import EXAMPLE_ID, EXAMPLE_TIME, Body, Email, Listed, Read, Search, Time

INVITATION_EXAMPLE: JsonDict = {
    "id": str(EXAMPLE_ID),
    "email": "member@example.com",
    "role": "member",
    "invited_by": str(EXAMPLE_ID),
    "created_at": EXAMPLE_TIME,
    "expires_at": "2026-02-07T09:30:00.123456Z",
}


class InvitationRead(Read):
    """An open invitation. `invited_by` is null once that user is deleted."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"example": INVITATION_EXAMPLE})

    id: UUID
    email: str
    role: Role
    invited_by: UUID | None
    created_at: Time
    expires_at: Time


class InvitationCreate(Body):
    """Whom to invite, and as what."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"email": "member@example.com", "role": "member"}})

    email: Email
    role: Role


class InvitationList(Listed):
    """Filters and sorts of the list of invitations."""

    sort: Literal["created_at", "-created_at", "email", "-email"] = "-created_at"
    role: Role | None = None
    q: Search | None = None
