"""Resources, as clients see them."""

import math
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, StringConstraints
from pydantic.config import JsonDict

from app.schemas.common import EXAMPLE_ID, EXAMPLE_TIME, Body, Change, Id, Listed, Name, NotNull, Read, Search, Time, storable
from app.utils.json import to_json

LARGEST_DATA = 65_536
DEEPEST_DATA = 64
TOO_DEEP = f"must not be nested deeper than {DEEPEST_DATA} levels"

RESOURCE_EXAMPLE: JsonDict = {
    "id": str(EXAMPLE_ID),
    "project_id": str(EXAMPLE_ID),
    "name": "Landing page",
    "type": "page",
    "data": {"title": "Hello", "blocks": [1, 2, 3]},
    "version": 1,
    "created_by": str(EXAMPLE_ID),
    "created_at": EXAMPLE_TIME,
    "updated_at": EXAMPLE_TIME,
}


def _storable_object(data: dict[str, Any]) -> dict[str, Any]:
    """Return the object. Raises `ValueError` for what PostgreSQL cannot hold, for what is too deep, and for what is too large."""
    # Size first: looking at each value of a mebibyte takes a tenth of a second, in which nobody else is served.
    try:
        size = len(to_json(data))
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except UnicodeEncodeError:
        raise ValueError("must not contain lone surrogates") from None
    if size > LARGEST_DATA:
        raise ValueError("must not be larger than 64 KiB as JSON")
    _check(data, 1)
    return data


def _check(value: object, depth: int) -> None:
    if depth > DEEPEST_DATA:
        raise ValueError(TOO_DEEP)
    if isinstance(value, str):
        storable(value)
    elif isinstance(value, dict):
        for key, inner in value.items():
            storable(key)
            _check(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must not contain NaN or Infinity, which are not JSON")


Data = Annotated[dict[str, Any], AfterValidator(_storable_object)]
Kind = Annotated[str, StringConstraints(min_length=1, max_length=50, pattern=r"^\w[\w.-]*$"), AfterValidator(storable)]


class ResourceRead(Read):
    """A resource."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"example": RESOURCE_EXAMPLE})

    id: UUID
    project_id: UUID
    name: str
    type: str
    data: dict[str, Any]
    version: int
    created_by: UUID | None
    created_at: Time
    updated_at: Time


class ResourceCreate(Body):
    """A new resource of a project."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"project_id": str(EXAMPLE_ID), "name": "Landing page", "type": "page", "data": {"title": "Hello"}}},
    )

    project_id: Id
    name: Name
    type: Kind
    data: Data


class ResourceUpdate(Change):
    """A change to a resource. `data` is replaced as a whole."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"data": {"title": "Hello again"}}})

    name: NotNull[Name] = None
    type: NotNull[Kind] = None
    data: NotNull[Data] = None


class ResourceList(Listed):
    """Filters and sorts of the list of resources."""

    sort: Literal["created_at", "-created_at", "updated_at", "-updated_at", "name", "-name"] = "-created_at"
    project_id: Id | None = None
    type: Kind | None = None
    q: Search | None = None
