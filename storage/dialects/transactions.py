"""How a transaction begins, and what a connection is that is in none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

# The execution option with the statements that begin a transaction. To say so by an isolation level
# sends statements around every loan of a connection, and one of them before anybody owns it: a
# caller who is cancelled there leaves it to the garbage collector.
BEGIN = "byline_begin"
_BEGIN = {"mysql": ("START TRANSACTION",), "sqlite": ("PRAGMA query_only = OFF", "BEGIN IMMEDIATE")}
_AUTOCOMMIT: dict[str, dict[str, Any]] = {
    "postgresql": {"isolation_level": "AUTOCOMMIT"},
    "mysql": {BEGIN: ()},
    "sqlite": {BEGIN: ()},
}
_SNAPSHOT: dict[str, dict[str, Any]] = {
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
    "mysql": {
        BEGIN: ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "START TRANSACTION READ ONLY")
    },
    # SQLite has connections that only read, and no such transactions.
    "sqlite": {BEGIN: ("PRAGMA query_only = ON", "BEGIN")},
}


def autocommit_options(engine: AsyncEngine) -> dict[str, Any]:
    """Returns the execution options under which each statement is on its own."""
    return _AUTOCOMMIT[engine.dialect.name]


def snapshot_options(engine: AsyncEngine) -> dict[str, Any]:
    """Returns the execution options under which all statements see the same state."""
    return _SNAPSHOT[engine.dialect.name]


def turns(engine: AsyncEngine) -> asyncio.Lock | None:
    """Returns what transactions take turns by, where the database has one writer at a time."""
    return asyncio.Lock() if engine.dialect.name == "sqlite" else None


def beginning_of(connection: Connection) -> Sequence[str]:
    """Returns the statements that begin the transaction that a connection is about to be in."""
    told: Sequence[str] = connection.get_execution_options().get(
        BEGIN, _BEGIN[connection.dialect.name]
    )
    return told
