"""Sessions: refreshing one, and showing them to whom they belong."""

from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from app.schemas.common import EXAMPLE_TIME, Body, Text, Time

_EXAMPLE: JsonDict = {
    "id": "0198c0de-5555-7000-8000-000000000001",
    "created_at": EXAMPLE_TIME,
    "last_used_at": EXAMPLE_TIME,
    "ip_address": "203.0.113.7",
    "user_agent": "Mozilla/5.0",
    "current": True,
}


class Refreshing(Body):
    """The refresh token that the last sign-in or refresh gave."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"refresh_token": "b1V0…"}})

    # No rules beyond length: what we never made is simply not good.
    refresh_token: Text = Field(max_length=1024)


class SessionRead(BaseModel):
    """A live session. `last_used_at` is the time of its last refresh, or of the sign-in; address and device are those of that time."""

    model_config = ConfigDict(json_schema_extra={"example": _EXAMPLE})

    id: UUID
    created_at: Time
    last_used_at: Time
    ip_address: str | None
    user_agent: str | None
    current: bool = Field(description="Whether it is the session that asks")


class SessionList(BaseModel):
    """The live sessions of the caller, the one that was used last first; a hundred at the most."""

    model_config = ConfigDict(json_schema_extra={"example": {"items": [_EXAMPLE]}})

    items: list[SessionRead]
