"""Projects, as clients see them."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from app.models import ProjectStatus
from app.schemas.common import EXAMPLE_ID, EXAMPLE_TIME, Body, Change, Id, Listed, Name, NotNull, Read, Search, Text, Time

Description = Annotated[Text, Field(max_length=10_000)]

PROJECT_EXAMPLE: JsonDict = {
    "id": str(EXAMPLE_ID),
    "name": "Website",
    "description": "The new one",
    "status": "active",
    "owner_id": str(EXAMPLE_ID),
    "view_count": 7,
    "is_deleted": False,
    "deleted_at": None,
    "created_at": EXAMPLE_TIME,
    "updated_at": EXAMPLE_TIME,
    "version": 1,
}


class ProjectRead(Read):
    """A project."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"example": PROJECT_EXAMPLE})

    id: UUID
    name: str
    description: str | None
    status: ProjectStatus
    owner_id: UUID | None
    view_count: int
    is_deleted: bool
    deleted_at: Time | None
    created_at: Time
    updated_at: Time
    version: int


class ProjectCreate(Body):
    """A new project. Its owner is the caller; an admin may name another user of the tenant."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"name": "Website", "description": "The new one"}})

    name: Name
    description: Description | None = None
    status: ProjectStatus = ProjectStatus.ACTIVE
    owner_id: Id | None = None


class ProjectUpdate(Change):
    """A change to a project. `owner_id` is an admin's to change."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"status": "on_hold"}})

    name: NotNull[Name] = None
    description: Description | None = None
    status: NotNull[ProjectStatus] = None
    owner_id: Id | None = None


class ProjectList(Listed):
    """Filters and sorts of the list of projects."""

    sort: Literal["created_at", "-created_at", "updated_at", "-updated_at", "name", "-name"] = "-created_at"
    status: ProjectStatus | None = None
    owner_id: Id | None = None
    q: Search | None = None
    include_deleted: Annotated[bool, Field(description="Deleted ones too; admins only")] = False
