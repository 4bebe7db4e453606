"""What migrators tell a database, and how they take turns there."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from storage import poolers
from storage.dialects import sqlite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

# Any fixed number: every migrator of every Byline takes the same lock.
LOCK = 0x42594C494E45
# Seconds between two looks at whether the migrator before is done.
TURN_POLL = 0.2
# Seconds that a migrator waits for SQLite's one writer before it gives up, to try again.
SQLITE_LOCK_TIMEOUT = 5.0


def settings(dialect: str, lock_timeout: float) -> Mapping[str, str]:
    """Says how long a step waits for a table before it gives up, and for what else it does not.

    Args:
        dialect: which kind of database.
        lock_timeout: in seconds.
    """
    return {
        "postgresql": {
            "lock_timeout": str(round(lock_timeout * 1000)),
            # A role's own limit is meant for callers: with it, a long step would never be done.
            "statement_timeout": "0",
            # What a migrator holds whose machine is gone, others wait for no longer than this.
            "idle_in_transaction_session_timeout": "60s",
        },
        "mysql": {
            "lock_wait_timeout": str(round(lock_timeout) or 1),
            "innodb_lock_wait_timeout": str(round(lock_timeout) or 1),
            "max_statement_time": "0",
            # The driver would log that a table is there already, and the like.
            "max_error_count": "0",
        },
        "sqlite": {},
    }[dialect]


def make_engine(url: str, told: Mapping[str, str]) -> AsyncEngine:
    """Returns an engine for one migrator, whose connections are told the settings.

    Raises:
        OSError: when SQLite's file cannot be opened, or is no database.
    """
    engine = create_async_engine(url, poolclass=NullPool)
    if engine.dialect.name == "postgresql":
        poolers.introduce(engine, {**told, "application_name": "byline-migrate"})
    elif engine.dialect.name == "sqlite":
        _look_at_file(engine.url.database or ":memory:")
        sqlite.introduce(engine, lock_timeout=SQLITE_LOCK_TIMEOUT)
    return engine


def _look_at_file(path: str) -> None:
    """Opens a file as SQLite does, which makes it if it is not there.

    The driver says no more than that it failed, and its thread outlives the event loop then.
    """
    try:
        connection = sqlite3.connect(path)
        try:
            connection.execute("PRAGMA schema_version")
        finally:
            connection.close()
    except sqlite3.Error as error:
        # Whoever has it locked is waited for later on.
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise OSError(f"{path}: {error}") from error


@asynccontextmanager
async def turn(
    engine: AsyncEngine, connection: AsyncConnection, told: Mapping[str, str]
) -> AsyncIterator[None]:
    """Waits until no other migrator is at work, however long that takes, and keeps others waiting.

    It asks again and again: one that waited within a statement would have an index that the other
    builds concurrently wait for it in turn. The lock is the connection's, which drops it as it
    closes. A pooler lends no connection for so long: there it is that of a transaction, in which
    nothing else is done.
    """
    if engine.dialect.name == "sqlite":
        # The one transaction that all steps are in is the only writer.
        yield
    elif engine.dialect.name == "mysql":
        for name, value in told.items():
            await connection.execute(text(f"SET {name} = {value}"))
        await _until_taken(connection, f"GET_LOCK(CONCAT('{LOCK:x}.', DATABASE()), 0)")
        yield
    elif not poolers.is_pooled(await connection.get_raw_connection()):
        await _until_taken(connection, f"pg_try_advisory_lock({LOCK})")
        yield
    else:
        async with engine.connect() as keeper:
            await _until_taken(keeper, f"pg_try_advisory_xact_lock({LOCK})")
            # The last statement of its transaction: after one that looks at the database, what it
            # saw would be kept, and an index could not be built concurrently.
            await keeper.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            yield


async def _until_taken(connection: AsyncConnection, lock: str) -> None:
    """Takes the migrators' lock by one of the database's functions, as soon as it can be had."""
    while not await connection.scalar(text(f"SELECT {lock}")):
        await connection.rollback()
        await asyncio.sleep(TURN_POLL)
