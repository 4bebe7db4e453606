"""What becomes of the statement of a caller who leaves: the database is told to stop it.

PostgreSQL's driver tells it by itself. SQLite is told in the process. MariaDB's driver closes the
connection, which a server that is at work does not look at: it is told on another one.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import event

from storage.dialects import sqlite

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
    from sqlalchemy.pool import ConnectionPoolEntry

    from storage.dialects.errands import Errands


def stop_what_is_left(engine: AsyncEngine, errands: Errands) -> None:
    """Has the statements stopped whose callers leave.

    Args:
        engine: whose statements.
        errands: on connections to the same database that no caller has.
    """

    def kill_soon(connection: Any) -> None:  # noqa: ANN401 - the driver's
        errands.begin(partial(_kill, connection.thread_id()))

    ways: dict[str, Callable[[Any], object]] = {"mysql": kill_soon, "sqlite": sqlite.Interrupts}
    stop = ways.get(engine.dialect.name)
    if stop is None:
        return

    # A connection whose caller leaves in the midst of a statement is of no use to anybody else.
    @event.listens_for(engine.sync_engine, "invalidate")
    def left(_: object, entry: ConnectionPoolEntry, error: BaseException | None) -> None:
        if isinstance(error, asyncio.CancelledError):
            stop(entry.driver_connection)


async def _kill(number: int, connection: AsyncConnection) -> None:
    """Ends a connection of MariaDB's, whatever it is at, if it has not ended by itself.

    No other has its number, nor will while the server runs.
    """
    await connection.exec_driver_sql(f"KILL {number}")
