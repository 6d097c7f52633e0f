"""Which columns of a table are answered, and how their rows become JSON."""

from collections.abc import Sequence
from typing import Any

import asyncpg
import msgspec
from sqlalchemy import JSON, ColumnElement, Text, cast


class Columns:
    """The columns that are answered of a table.

    A JSON document is read as the text that it is stored as, and put into the answer as it stands: the driver would take it apart only for the answer to
    put it together again, which for a page of large documents takes half a second in which nobody else is served.
    """

    def __init__(self, model: type[Any], names: Sequence[str]) -> None:
        columns = {name: getattr(model, name) for name in names}
        self._documents = [name for name, column in columns.items() if isinstance(column.type, JSON)]
        self.selected: list[ColumnElement[Any]] = [cast(column, Text).label(name) if name in self._documents else column for name, column in columns.items()]

    def plain(self, row: asyncpg.Record) -> dict[str, Any]:
        """Return a row of the selected columns as what `to_json` knows."""
        values = dict(row)
        for name in self._documents:
            values[name] = None if values[name] is None else msgspec.Raw(values[name])
        return values
