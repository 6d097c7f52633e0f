"""Lists: filtered, sorted, and paged by keyset, so that a page costs the same at any depth.

Paging compares the tuple (sort column, id) with the last row's, which an index that begins with `tenant_id` answers directly. Rows that come or go
meanwhile shift nothing: every row that was there throughout is seen exactly once.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Select, bindparam, func, or_, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from app.api.columns import Columns
from app.core.cursors import Cursors
from app.core.exceptions import InvalidCursor, PageTooDeep
from app.database import Query, Reader
from app.schemas.common import Listed
from app.utils.json import to_json

DEEPEST_ROW = 10_000


class Shape(NamedTuple):
    """Which parts a list's statement has; one statement is compiled for each shape that is asked for."""

    sort: str
    filters: frozenset[str]
    after_cursor: bool = False
    numbered: bool = False
    counting: bool = False


class Listing:
    """One collection's list. `base` must hold the tenant's filter, as `Model.tenant_id == bindparam("tenant_id")`."""

    def __init__(
        self,
        base: Select[Any],
        *,
        model: type[Any],
        columns: Sequence[str],
        filters: Mapping[str, Any],
        search: Sequence[InstrumentedAttribute[Any]],
        scope: str = "all",
    ) -> None:
        """Take the statement's FROM and WHERE, the columns to answer, and what may be filtered by: `name -> condition(s)` with `bindparam(name)`.

        `scope` names which rows the statement leaves out by itself: a cursor is good for lists of the same scope only.
        """
        self._scope = scope
        self._base = base
        self._model = model
        self._columns = Columns(model, columns)
        self._filters = filters
        self._search = search
        self._query = cache(self._compile)

    async def answer(self, reader: Reader, cursors: Cursors, tenant_id: UUID, asked: Listed) -> bytes:
        """Return one page as JSON. Raises `InvalidCursor` and `PageTooDeep`."""
        sort: str = asked.sort  # type: ignore[attr-defined]  # every list declares the sorts that it knows
        values = self._values(asked)
        parameters: dict[str, Any] = {"tenant_id": tenant_id, "limit": asked.page_size + 1, **values}
        if "q" in values:
            parameters["q"] = like_pattern(values["q"])
        binding = [self._model.__tablename__, self._scope, tenant_id, sort, sorted(values.items())]
        if asked.page is not None:
            if asked.cursor is not None:
                raise InvalidCursor("Give either `cursor` or `page`, not both.")
            if asked.page * asked.page_size > DEEPEST_ROW:
                raise PageTooDeep
            parameters["offset"] = (asked.page - 1) * asked.page_size
        if asked.cursor is not None:
            parameters["after"], parameters["after_id"] = cursors.read(asked.cursor, binding, self._kind(sort))
        shape = Shape(sort, frozenset(values), asked.cursor is not None, asked.page is not None)
        rows = await reader.fetch(self._query(shape), **parameters)
        page: dict[str, Any] = {"items": [self._columns.plain(row) for row in rows[: asked.page_size]], "page_size": asked.page_size}
        page["has_more"] = len(rows) > asked.page_size
        last = rows[asked.page_size - 1] if page["has_more"] else None
        page["next_cursor"] = None if last is None else cursors.write(binding, last[sort.lstrip("-")], last["id"])
        if asked.page is not None or asked.with_total:
            counted = await reader.fetch_one(self._query(Shape(sort, frozenset(values), counting=True)), **parameters)
            page["total"] = counted[0] if counted else 0
        if asked.page is not None:
            page["page"] = asked.page
        return to_json(page)

    def _values(self, asked: Listed) -> dict[str, Any]:
        """Return the filters that were asked for. False flags and absent filters do not count."""
        candidates = {name: getattr(asked, name) for name in ("q", *self._filters) if hasattr(asked, name)}
        return {name: value for name, value in candidates.items() if value is not None}

    def _kind(self, sort: str) -> type[Any]:
        kind: type[Any] = getattr(self._model, sort.lstrip("-")).type.python_type
        return datetime if kind is datetime else str

    def _compile(self, shape: Shape) -> Query:
        statement = self._base
        for name in sorted(shape.filters - {"q"}):
            statement = statement.where(self._filters[name])
        if "q" in shape.filters:
            statement = statement.where(or_(*(column.ilike(bindparam("q"), escape="\\") for column in self._search)))
        if shape.counting:
            return Query(statement.with_only_columns(func.count(self._model.id)))
        column, row_id = getattr(self._model, shape.sort.lstrip("-")), self._model.id
        descending = shape.sort.startswith("-")
        if shape.after_cursor:
            here, after = tuple_(column, row_id), tuple_(bindparam("after", type_=column.type), bindparam("after_id", type_=row_id.type))
            statement = statement.where(here < after if descending else here > after)
        statement = statement.with_only_columns(*self._columns.selected)
        statement = statement.order_by(column.desc() if descending else column.asc(), row_id.desc() if descending else row_id.asc())
        statement = statement.limit(bindparam("limit", type_=select(func.count()).selected_columns[0].type))
        return Query(statement.offset(bindparam("offset")) if shape.numbered else statement)


def like_pattern(text: str) -> str:
    """Return the LIKE pattern that matches the text anywhere, and nothing but the text."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"
