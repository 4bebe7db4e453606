"""What a database tells of itself to whoever wants to know whether it will do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import text

from storage.dialects.sql import CLOCK

if TYPE_CHECKING:
    from storage.sessions import Read


class Facts(NamedTuple):
    """What a database is.

    Args:
        name: `PostgreSQL`.
        version: as it says it.
        is_known: whether Byline is tested on it, or on one before it.
        connections: that it allows; None where there is no bound.
        clock: its time, in seconds since 1970.
        missing: extensions that the schema needs and that are not there to be made.
        dropped: extensions that a schema which is there has lost.
    """

    name: str
    version: str
    is_known: bool
    connections: int | None
    clock: float
    missing: tuple[str, ...]
    dropped: tuple[str, ...]


class _Asked(NamedTuple):
    """How a kind of database is asked.

    Args:
        name: for people.
        least: the oldest version that Byline is tested on.
        statement: answers with the version, the connections, the clock, and the extensions that
            are missing and that were dropped.
    """

    name: str
    least: tuple[int, ...]
    statement: str


_ASKED = {
    "postgresql": _Asked(
        "PostgreSQL",
        (15,),
        "SELECT current_setting('server_version'), current_setting('max_connections')::integer,"
        " extract(epoch FROM clock_timestamp()),"
        " (SELECT string_agg(wanted, ' ') FROM unnest(ARRAY['pg_trgm']) AS wanted"
        " WHERE wanted NOT IN (SELECT name FROM pg_available_extensions)),"
        " (SELECT string_agg(wanted, ' ') FROM unnest(ARRAY['pg_trgm']) AS wanted"
        " WHERE wanted NOT IN (SELECT extname FROM pg_extension)"
        " AND to_regclass('users') IS NOT NULL)",
    ),
    "mysql": _Asked(
        "MariaDB",
        (10, 11),
        "SELECT version(), @@max_connections, unix_timestamp(sysdate(6)), NULL, NULL",
    ),
    # Its connections are refused without the one extension that it needs.
    "sqlite": _Asked(
        "SQLite", (3, 35), f"SELECT sqlite_version(), NULL, {CLOCK}() / 1000000.0, NULL, NULL"
    ),
}


async def facts(read: Read) -> Facts:
    """Asks the database what it is."""
    asked = _ASKED[read.dialect]
    answer = (await read.execute(text(asked.statement))).one()
    version, connections, clock, missing, dropped = tuple(answer)
    numbers = tuple(map(int, re.findall(r"\d+", version)))
    return Facts(
        asked.name,
        version,
        numbers >= asked.least,
        connections,
        float(clock),
        tuple((missing or "").split()),
        tuple((dropped or "").split()),
    )
