"""How a transaction begins, and what a connection is that is in none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

# The execution option with the statements that begin a transaction. To say so by an isolation level
# sends statements around every loan of a connection, and one of them before anybody owns it: a
# caller who is cancelled there leaves it to the garbage collector.
BEGIN = "byline_begin"
_BEGIN = {
    "postgresql": ("BEGIN;",),
    "mysql": ("START TRANSACTION",),
    "sqlite": ("PRAGMA query_only = OFF", "BEGIN IMMEDIATE"),
}
# The execution options under which each statement is on its own.
AUTOCOMMIT: Mapping[str, Any] = {BEGIN: ()}
_SNAPSHOT = {
    "postgresql": ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;",),
    "mysql": ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "START TRANSACTION READ ONLY"),
    # SQLite has connections that only read, and no such transactions.
    "sqlite": ("PRAGMA query_only = ON", "BEGIN"),
}


def snapshot_options(engine: AsyncEngine) -> dict[str, Any]:
    """Returns the execution options under which all statements see the same state."""
    return {BEGIN: _SNAPSHOT[engine.dialect.name]}


def turns(engine: AsyncEngine) -> asyncio.Lock | None:
    """Returns what transactions take turns by, where the database has one writer at a time."""
    return asyncio.Lock() if engine.dialect.name == "sqlite" else None


def beginning_of(lender: Engine | Connection) -> Sequence[str]:
    """Returns the statements that begin the transaction that a connection is about to be in.

    Args:
        lender: the engine that it is lent by, or the connection, which has its options from there.
    """
    options = lender.get_execution_options()
    told: Sequence[str] = options.get(BEGIN, _BEGIN[lender.dialect.name])
    return told
