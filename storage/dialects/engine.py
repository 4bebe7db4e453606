"""How a database is reached, and what its connections are told.

Each kind of database has a function that makes its engine, by the name that its URLs begin with.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

from storage import poolers
from storage.dialects.sql import CLOCK
from storage.dialects.types import MYSQL_COLLATION

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from storage.database import PoolConfig

# What `BEGIN` is on SQLite, for a connection that is to see one state and to change nothing.
DEFERRED = "byline_deferred"
_NANOSECONDS_OF_A_TICK = 1_000
# Seconds: the most that MariaDB takes.
_NO_BOUND = 100_000_000
# Seconds that SQLite waits for its turn before it is asked again: nothing cuts that wait short.
_LONGEST_TRY = 0.5


def make_engine(url: str, pool: PoolConfig) -> AsyncEngine:
    """Returns an engine whose connections are told what the pool's configuration says."""
    engine = create_async_engine(
        url,
        pool_size=pool.size,
        max_overflow=pool.overflow,
        pool_timeout=pool.wait,
        pool_recycle=round(pool.recycle),
        # The connection used last is used next, so that those a quiet hour does not need age out.
        pool_use_lifo=True,
        # Values stay out of logs and errors: they may be personal, and a password hash is.
        hide_parameters=True,
        **_OPTIONS[make_url(url).get_backend_name()](pool),
    )
    if engine.dialect.name == "postgresql":
        poolers.introduce(engine, _settings_of_postgresql(pool))
    elif engine.dialect.name == "sqlite":
        listen_to_sqlite(engine, pool.lock_timeout)
    return engine


def _settings_of_postgresql(pool: PoolConfig) -> dict[str, str]:
    return {
        "application_name": "byline",
        "statement_timeout": _milliseconds(pool.statement_timeout),
        "lock_timeout": _milliseconds(pool.lock_timeout),
        # A transaction of ours is never idle for longer than a statement may take.
        "idle_in_transaction_session_timeout": _milliseconds(pool.statement_timeout),
        # Compiling a plan costs more than any of these statements takes.
        "jit": "off",
        "timezone": "UTC",
    }


def _postgresql(pool: PoolConfig) -> dict[str, Any]:
    return {"connect_args": {"timeout": pool.connect_timeout}}


def _mysql(pool: PoolConfig) -> dict[str, Any]:
    told = {
        "time_zone": "'+00:00'",
        # What an UPDATE assigns is worked out from what was there before, as everywhere else.
        "sql_mode": "'TRADITIONAL,SIMULTANEOUS_ASSIGNMENT'",
        # In seconds, whole ones from the second on.
        "max_statement_time": f"{pool.statement_timeout}",
        "innodb_lock_wait_timeout": f"{ceil(pool.lock_timeout) or _NO_BOUND}",
        "idle_transaction_timeout": f"{ceil(pool.statement_timeout)}",
        "collation_connection": f"'{MYSQL_COLLATION}'",
    }
    return {
        # A statement sees what was committed before it, as on PostgreSQL.
        "isolation_level": "READ COMMITTED",
        "connect_args": {
            "charset": "utf8mb4",
            "connect_timeout": round(pool.connect_timeout) or 1,
            "init_command": "SET " + ", ".join(f"{name} = {value}" for name, value in told.items()),
        },
    }


def _sqlite(pool: PoolConfig) -> dict[str, Any]:
    return {"connect_args": {"timeout": min(pool.lock_timeout or _LONGEST_TRY, _LONGEST_TRY)}}


_OPTIONS: dict[str, Callable[[PoolConfig], dict[str, Any]]] = {
    "postgresql": _postgresql,
    "mysql": _mysql,
    "sqlite": _sqlite,
}


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


def snapshot_options(engine: AsyncEngine) -> dict[str, Any]:
    """Returns the execution options under which all statements see the same state."""
    if engine.dialect.name == "sqlite":
        return {DEFERRED: True}
    return {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


def turns(engine: AsyncEngine) -> asyncio.Lock | None:
    """Returns what transactions take turns by, where the database has one writer at a time."""
    return asyncio.Lock() if engine.dialect.name == "sqlite" else None


def listen_to_sqlite(engine: AsyncEngine, patience: float = 0) -> None:
    """Has connections of SQLite know what Byline's statements need, and begin as they should.

    Args:
        engine: of SQLite.
        patience: how many seconds a transaction waits for other processes' to end; 0 for no bound.
    """
    event.listen(engine.sync_engine, "connect", _tell_sqlite)
    event.listen(engine.sync_engine, "begin", partial(_begin_sqlite, patience))


def _tell_sqlite(connection: Any, _: object) -> None:  # noqa: ANN401 - the driver's
    connection.create_function(CLOCK, 0, _clock)
    # The driver would begin by itself, and too late to wait for its turn.
    connection.isolation_level = None
    cursor = connection.cursor()
    for told in (
        "journal_mode = WAL",
        # What is acknowledged outlives the machine's power.
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        cursor.execute(f"PRAGMA {told}")
    cursor.close()


def _clock() -> int:
    return time.time_ns() // _NANOSECONDS_OF_A_TICK


def _begin_sqlite(patience: float, connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("isolation_level") == "AUTOCOMMIT":
        return
    if options.get(DEFERRED):
        connection.exec_driver_sql("BEGIN")
        return
    until = time.monotonic() + (patience or _NO_BOUND)
    while True:
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        except OperationalError as error:
            code = getattr(error.orig, "sqlite_errorcode", None)
            if code != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
        else:
            return


def interrupt(connection: AsyncConnection) -> None:
    """Stops the statement that a connection is at, where leaving it does not."""
    raw: Any = connection.sync_connection
    if connection.dialect.name == "sqlite" and not raw.invalidated:
        raw.connection.driver_connection._conn.interrupt()  # noqa: SLF001 - aiosqlite's own waits
