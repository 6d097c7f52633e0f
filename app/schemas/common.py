"""What many schemas share: text that PostgreSQL can hold, partial changes, pages, problems."""

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    EmailStr,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    StringConstraints,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError

from app.core.tenancy import NAME_PATTERN, is_valid_name
from app.utils.json import to_json

Item = TypeVar("Item")

LARGEST_PAGE = 100
DEFAULT_PAGE = 20
# Far more than any schema has.
MOST_FIELDS = 50
ID_LENGTH = 36


def storable(text: str) -> str:
    """Return the text. Raises `ValueError` for NUL, which PostgreSQL cannot hold, and for lone surrogates, which are no text at all."""
    if "\0" in text:
        raise ValueError("must not contain the NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must not contain lone surrogates") from None
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


def _free_name(name: str) -> str:
    if not is_valid_name(name):
        raise ValueError("is reserved, choose another one")
    return name


def _canonical(value: object) -> object:
    # The parser also takes braces, a URN, and no dashes, which all have another length.
    if isinstance(value, str) and (len(value) != ID_LENGTH or value != value.lower()):
        raise PydanticCustomError("uuid_parsing", "Input should be a UUID in lower case, with dashes")
    return value


class _NeverNull:
    """Has `X | None` take no null, nor show it in the document: the None is that of a field which is absent."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        if schema["type"] != "nullable":
            raise TypeError(f"{source} takes no null anyway")
        inner: CoreSchema = schema["schema"]
        return inner


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


# An identifier that a client gives: one spelling each, the one that answers have.
Id = Annotated[UUID, BeforeValidator(_canonical)]
# A field of a partial change that may be absent, and then is None, but not null.
NotNull = Annotated[Item | None, _NeverNull()]
Text = Annotated[str, AfterValidator(storable)]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(storable), AfterValidator(_not_blank)]
Slug = Annotated[str, BeforeValidator(_lower), StringConstraints(pattern=NAME_PATTERN)]
NewSlug = Annotated[Slug, AfterValidator(_free_name)]
Email = Annotated[EmailStr, AfterValidator(storable), AfterValidator(str.lower), Field(max_length=254)]
Password = Annotated[str, StringConstraints(min_length=8, max_length=128), AfterValidator(storable)]
Search = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(storable)]
Time = Annotated[datetime, PlainSerializer(lambda value: value.astimezone(UTC).isoformat().replace("+00:00", "Z"), return_type=str)]


class Body(BaseModel):
    """A request's body. Unknown fields are refused, each by name, and very many of them all at once."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_very_many(cls, given: Any) -> Any:
        # An error for each of the 95,000 that a body has room for takes half a second to make, in which nobody else is served.
        if isinstance(given, dict) and len(given) > MOST_FIELDS:
            raise ValueError(f"must not have more than {MOST_FIELDS} fields")
        return given


class Change(Body):
    """A partial change (JSON Merge Patch, RFC 7396, for flat objects): only the fields that are present count, and only some may be null."""

    def changes_to(self, row: object) -> dict[str, Any]:
        """Return the fields that are present and differ from the row."""
        present = self.model_dump(include=self.model_fields_set)
        return {name: value for name, value in present.items() if not _same(getattr(row, name), value)}


def _same(old: object, new: object) -> bool:
    # As JSON, 1 and true differ; in Python they are equal.
    return to_json(old) == to_json(new) if isinstance(new, dict) else old == new


class Read(BaseModel):
    """An answer, made from a row."""

    model_config = ConfigDict(from_attributes=True)


class Listed(BaseModel):
    """The query parameters of every list. Unknown parameters are refused."""

    model_config = ConfigDict(extra="forbid")

    page_size: Annotated[int, Field(ge=1, le=LARGEST_PAGE)] = DEFAULT_PAGE
    cursor: Annotated[str | None, Field(description="`next_cursor` of the page before")] = None
    page: Annotated[int | None, Field(ge=1, description="A page by its number, to 10,000 rows deep. Not together with `cursor`")] = None
    with_total: bool = False


class Page(BaseModel, Generic[Item]):
    """A page of a list."""

    items: list[Item]
    page_size: int
    has_more: bool
    next_cursor: str | None = Field(description="Give it as `cursor` to get the next page")
    total: int | None = Field(default=None, description="Only with `page` or `with_total`")
    page: int | None = Field(default=None, description="Only with `page`")


class FieldProblem(BaseModel):
    """One value that is not acceptable."""

    loc: list[str | int]
    msg: str
    type: str


class Problem(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "about:blank",
                "title": "Not Found",
                "status": 404,
                "detail": "There is no such project.",
                "instance": "/api/v1/projects/0198c0de-0000-7000-8000-000000000000",
                "code": "not_found",
                "request_id": "3f0e9a0b6c1d4e2f8a7b5c4d3e2f1a0b",
            }
        }
    )

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str = Field(description="Stable, for programs")
    request_id: str | None
    errors: list[FieldProblem] | None = Field(default=None, description="Only with 422; the first 50, should there be more")


EXAMPLE_ID = UUID("0198c0de-1111-7000-8000-000000000001")
EXAMPLE_TIME = "2026-01-31T09:30:00.123456Z"
