"""What SQLite and its driver are held to: a library in the process, which bounds little itself."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from contextlib import contextmanager, suppress
from functools import partial
from operator import getitem
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from storage.dialects.errors import LOCK_NOT_AVAILABLE, cause_of
from storage.dialects.sql import CLOCK
from storage.dialects.transactions import beginning_of
from storage.usage import bound, statement_waits_for_a_lock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import ConnectionPoolEntry

# Seconds that SQLite itself waits for who is writing. It cannot be told to stop waiting, so this is
# how long a caller who leaves may be kept; whoever has to wait for longer asks again.
BUSY_TIMEOUT = 0.1
TOLD = (
    "journal_mode = WAL",
    # What is acknowledged outlives the machine's power.
    "synchronous = FULL",
    "foreign_keys = ON",
)
# Without it no row can be written to a table that has a search index. It knows trigrams from 3.34
# on, and Byline's statements are those of 3.35.
SEARCH_MODULE = "fts5"
# Seconds between two times that a statement is told to stop.
_AGAIN = 0.01
_NANOSECONDS_OF_A_TICK = 1_000


class Cursor(sqlite3.Cursor):
    """A cursor that refuses what it cannot send as every other driver does."""

    def execute(self, statement: str, values: Any = ()) -> Self:  # noqa: ANN401 - as the library has them
        """Runs a statement."""
        with _refusing():
            return super().execute(statement, values)

    def executemany(self, statement: str, rows: Any) -> Self:  # noqa: ANN401 - so too
        """Runs a statement for each row of values."""
        with _refusing():
            return super().executemany(statement, rows)


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except (OverflowError, UnicodeEncodeError) as error:
        raise sqlite3.DataError(type(error).__name__) from None


class Connection(sqlite3.Connection):
    """A connection whose transaction ends with it."""

    def __init__(self, database: str, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - as the library has them
        super().__init__(database, *arguments, **options)
        self.database = database
        self._cursors: WeakSet[sqlite3.Cursor] = WeakSet()

    def cursor(self, factory: type[sqlite3.Cursor] = Cursor) -> sqlite3.Cursor:  # type: ignore[override] # its stubs know more
        """Makes a cursor."""
        made = super().cursor(factory)
        self._cursors.add(made)
        return made

    def close(self) -> None:
        """Closes, with every cursor.

        One that is at a statement, because its caller was cancelled, keeps the transaction open,
        and its lock, for as long as somebody has the error that tells of it.
        """
        for cursor in tuple(self._cursors):
            cursor.close()
        super().close()


CONNECT_ARGUMENTS: dict[str, Any] = {"timeout": BUSY_TIMEOUT, "factory": Connection}


def introduce(
    engine: AsyncEngine, *, lock_timeout: float = 0, statement_timeout: float = 0
) -> None:
    """Has connections know what Byline's statements need, and keep within their bounds.

    Args:
        engine: of aiosqlite's.
        lock_timeout: seconds that a transaction waits for the one before it; 0 for no bound.
        statement_timeout: seconds that a statement may run; 0 for no bound.
    """
    event.listen(engine.sync_engine, "connect", _tell)
    event.listen(engine.sync_engine, "before_cursor_execute", _note_moment)
    _bound_statements(engine, statement_timeout)

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:  # noqa: ANN401 - SQLAlchemy's
        if statements := beginning_of(connection):
            with statement_waits_for_a_lock():
                _begin(connection, statements, bound(lock_timeout))


def _tell(connection: Any, entry: ConnectionPoolEntry) -> None:  # noqa: ANN401 - the driver's
    cursor = connection.cursor()
    cursor.execute("SELECT 1 FROM pragma_module_list WHERE name = ?", (SEARCH_MODULE,))
    if cursor.fetchone() is None:
        raise sqlite3.NotSupportedError(
            f"the SQLite of this Python ({sqlite3.sqlite_version}) was built without FTS5,"
            " which Byline searches by"
        )
    connection.create_function(CLOCK, 0, partial(getitem, entry.info, CLOCK), deterministic=True)
    # The driver would begin by itself, and too late to wait for its turn.
    connection.isolation_level = None
    for told in TOLD:
        cursor.execute(f"PRAGMA {told}")
    cursor.close()


def _note_moment(connection: Any, *_: object) -> None:  # noqa: ANN401 - SQLAlchemy's
    connection.info[CLOCK] = time.time_ns() // _NANOSECONDS_OF_A_TICK


def _begin(connection: Any, statements: Sequence[str], patience: float | None) -> None:  # noqa: ANN401 - so too
    deadline = math.inf if patience is None else time.monotonic() + patience
    for statement in statements:
        while True:
            try:
                connection.exec_driver_sql(statement)
                break
            except OperationalError as error:
                sqlstate, _ = cause_of(error.orig)
                if sqlstate != LOCK_NOT_AVAILABLE or time.monotonic() > deadline:
                    raise


def _bound_statements(engine: AsyncEngine, seconds: float) -> None:
    """Has statements interrupted that take too long: SQLite has no timeout of its own.

    Args:
        engine: whose.
        seconds: that a statement may run; 0 for no bound but its caller's deadline.
    """
    running: dict[object, Interrupts] = {}

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def started(connection: Any, *rest: Any) -> None:  # noqa: ANN401 - SQLAlchemy's
        *_, context, _ = rest
        patience = bound(seconds)
        if patience is not None:
            running[context] = Interrupts(connection.connection.driver_connection, patience)

    @event.listens_for(engine.sync_engine, "after_cursor_execute")
    def ended(_: object, *rest: Any) -> None:  # noqa: ANN401 - SQLAlchemy's
        *_, context, _ = rest
        stop(context)

    @event.listens_for(engine.sync_engine, "handle_error")
    def failed(error: Any) -> None:  # noqa: ANN401 - SQLAlchemy's
        stop(error.execution_context)

    def stop(context: object) -> None:
        interrupts = running.pop(context, None)
        if interrupts is not None:
            interrupts.end()


class Interrupts:
    """Stops the statement of a connection, however late it begins.

    SQLite forgets what it is told while it is at no statement, and the driver's thread comes to
    one in its own time: it is told again until the connection is closed, or what waits for the
    statement says that it has ended.

    Args:
        connection: the driver's.
        patience: seconds until it is told at first.
    """

    def __init__(self, connection: Any, patience: float = 0) -> None:  # noqa: ANN401 - the driver's
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.call_later(patience, self._tell)

    def _tell(self) -> None:
        with suppress(ValueError, sqlite3.ProgrammingError):  # it has been closed
            self._connection._conn.interrupt()  # noqa: SLF001 - aiosqlite's own waits
            self._next = self._loop.call_later(_AGAIN, self._tell)

    def end(self) -> None:
        """Leaves the connection to its next statement."""
        self._next.cancel()
