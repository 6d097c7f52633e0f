"""Whether the database has been migrated as far as this code needs."""

import re
from pathlib import Path

import asyncpg
from sqlalchemy import column, select, table

from app.database import Database, Query

MIGRATIONS = Path(__file__).parents[2] / "alembic" / "versions"
REVISIONS = Query(select(column("version_num")).select_from(table("alembic_version")))
_DOWN_REVISION = re.compile(r'^down_revision = "(\w+)"$', re.MULTILINE)


def outdated_revisions(migrations: Path = MIGRATIONS) -> frozenset[str]:
    """Return the revisions that a migration leads on from: whoever is at one of these lacks something."""
    return frozenset(found for path in migrations.glob("*.py") for found in _DOWN_REVISION.findall(path.read_text()))


class SchemaVersion:
    """Knows whether the schema is current, or newer: then it is asked no more, because schemas go forward while processes run."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._outdated = outdated_revisions()
        self._current = False

    async def is_current(self) -> bool:
        """Whether every migration that this code knows has run. Raises `DatabaseFault`.

        A revision that it does not know is a newer one, as there is while a new version is rolled out.
        """
        if not self._current:
            self._current = await self._look()
        return self._current

    async def _look(self) -> bool:
        try:
            async with self._database.read(None) as reader:
                found = {row[0] for row in await reader.fetch(REVISIONS)}
        except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError):
            # Not migrated at all, or not as far as the migration that lets the service ask.
            return False
        return bool(found) and not found & self._outdated
