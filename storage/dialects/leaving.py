"""What becomes of the statement of a caller who leaves: the database is told to stop it.

PostgreSQL's driver tells it by itself. SQLite is told in the process. MariaDB's driver closes the
connection, which a server that is at work does not look at: it is told on another one.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from storage.dialects import sqlite

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import ConnectionPoolEntry


class Killer:
    """Ends the connections of MariaDB whose callers have left, whatever they are at.

    A server that cannot be told in time goes on for as long as a statement may take.

    Args:
        vital: whose one connection does it.
        patience: seconds that it may take.
    """

    def __init__(self, vital: AsyncEngine, patience: float) -> None:
        self._vital = vital
        self._patience = patience
        self._left: list[int] = []
        self._killing: asyncio.Task[None] | None = None

    def __call__(self, connection: Any) -> None:  # noqa: ANN401 - the driver's
        """Has a connection ended soon. No other has had its number, nor will."""
        self._left.append(connection.thread_id())
        if self._killing is None:
            self._killing = asyncio.get_running_loop().create_task(self._kill())

    async def done(self) -> None:
        """Returns when all that have been left are ended."""
        if self._killing is not None:
            await asyncio.wait([self._killing])

    async def _kill(self) -> None:
        try:
            async with asyncio.timeout(self._patience), self._vital.connect() as connection:
                while self._left:
                    # Those that were at nothing have ended by themselves.
                    with suppress(DBAPIError):
                        await connection.exec_driver_sql(f"KILL {self._left.pop()}")
        except (SQLAlchemyError, OSError, TimeoutError):
            self._left.clear()
        finally:
            self._killing = None


def stop_what_is_left(engine: AsyncEngine, vital: AsyncEngine, patience: float) -> Killer | None:
    """Has the statements stopped whose callers leave, and returns who does it, where somebody must.

    Args:
        engine: whose statements.
        vital: another to the same database, for what must not wait.
        patience: seconds that it may take.
    """
    if engine.dialect.name == "postgresql":
        return None
    killer = Killer(vital, patience) if engine.dialect.name == "mysql" else None
    stop: Callable[[Any], None] = killer or sqlite.interrupt

    # A connection whose caller leaves in the midst of a statement is of no use to anybody else.
    @event.listens_for(engine.sync_engine, "invalidate")
    def left(_: object, entry: ConnectionPoolEntry, error: BaseException | None) -> None:
        if isinstance(error, asyncio.CancelledError):
            stop(entry.driver_connection)

    return killer
