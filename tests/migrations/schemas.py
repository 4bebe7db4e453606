"""All that a database holds, for two to be compared: what its schema is made of, and its rows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import inspect
from sqlalchemy.ext.asyncio import create_async_engine

if TYPE_CHECKING:
    from sqlalchemy import Connection

# Each gives rows that tell everything of the schema in the order of names.
_QUERIES = {
    "postgresql": (
        """
        SELECT table_name, column_name, data_type, character_maximum_length, column_default,
          is_nullable
        FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2
        """,
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY indexname",
        """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2
        """,
        "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1",
        """
        SELECT prosrc FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND proname LIKE 'byline%' ORDER BY proname
        """,
    ),
    "mysql": (
        """
        SELECT trigger_name, event_manipulation, event_object_table, action_timing, action_statement
        FROM information_schema.triggers WHERE trigger_schema = DATABASE() ORDER BY 1
        """,
    ),
    "sqlite": ("SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2",),
}


class Seen(NamedTuple):
    """What a database holds.

    Args:
        schema: all that it is made of.
        rows: those of each table by its name, in an order of their own.
    """

    schema: list[Any]
    rows: dict[str, list[Any]]


async def seen(url: str) -> Seen:
    """Looks at a database."""
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        found = await connection.run_sync(_look)
    await engine.dispose()
    return found


def _look(connection: Connection) -> Seen:
    dialect = connection.dialect.name
    tables = sorted(inspect(connection).get_table_names())
    rows = {
        table: sorted(map(tuple, connection.exec_driver_sql(f"SELECT * FROM {table}")), key=repr)
        for table in tables
    }
    schema: list[Any] = [
        [tuple(row) for row in connection.exec_driver_sql(query)] for query in _QUERIES[dialect]
    ]
    if dialect == "mysql":
        for table in tables:
            ((_, made),) = connection.exec_driver_sql(f"SHOW CREATE TABLE {table}")
            # That is a matter of rows.
            schema.append(re.sub(r" AUTO_INCREMENT=\d+", "", made))
    return Seen(schema, rows)
