"""The database as others of its clients see it: rows that somebody locks, and who is connected."""

from __future__ import annotations

import asyncio
import gc
import random
import sqlite3
from collections import defaultdict
from contextlib import asynccontextmanager, suppress
from datetime import UTC
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import event, make_url, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool, QueuePool

from storage.dialects import sqlite
from storage.dialects.sql import CLOCK
from storage.dialects.transactions import AUTOCOMMIT
from storage.moments import Moment, moment_of
from tests.processes import until
from tests.servers import past_the_pooler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy import CursorResult, Row
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from storage.database import Database

# How a transaction of Byline's begins on SQLite.
BEGIN = "BEGIN IMMEDIATE"
# How many connections there are of Bylines to the database that is asked: in all, those that are
# within a transaction or a statement, and those that wait for a lock.
_ALL = {
    "postgresql": """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'byline'
    """,
    "mysql": """
        SELECT count(*) FROM information_schema.processlist AS process
        WHERE db = DATABASE() AND process.id NOT IN ({onlookers})
    """,
}
_AT_WORK = {
    "postgresql": f"{_ALL['postgresql']} AND (state <> 'idle' OR xact_start IS NOT NULL)",
    "mysql": f"""{_ALL["mysql"]} AND (command <> 'Sleep' OR EXISTS (
        SELECT 1 FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = process.id
    ))""",
}
_WAITING = {
    "postgresql": f"{_ALL['postgresql']} AND wait_event_type = 'Lock'",
    "mysql": f"""{_ALL["mysql"]} AND (state LIKE 'Waiting for table%' OR EXISTS (
        SELECT 1 FROM information_schema.innodb_trx
        WHERE trx_mysql_thread_id = process.id AND trx_state = 'LOCK WAIT'
    ))""",
}
_NOW = {
    "postgresql": "SELECT clock_timestamp()",
    "mysql": "SELECT utc_timestamp(6)",
    "sqlite": f"SELECT {CLOCK}()",
}

# Seconds. Whoever asks MariaDB about transactions sooner than a tenth of one after somebody else
# did is told the same again: those who ask at different intervals do not always meet.
STALE = (0.11, 0.35)
# The connections of onlookers themselves, where the server does not tell whose a connection is.
_onlookers: set[int] = set()
# Callers in this process that wait to begin a transaction on SQLite, by the file.
_beginning: defaultdict[str, set[object]] = defaultdict(set)


class Onlooker:
    """A connection that is nobody else's, outside of transactions."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.kind = connection.dialect.name
        self._connection = connection

    async def execute(self, statement: str, **values: object) -> CursorResult[Any]:
        """Runs a statement, with `:name` for a value."""
        return await self._connection.execute(text(statement), values)

    async def rows(self, statement: str, **values: object) -> list[Row[Any]]:
        """Returns what a query asks for."""
        return list((await self.execute(statement, **values)).all())

    async def value(self, statement: str, **values: object) -> Any:  # noqa: ANN401 - any column's
        """Returns the one value that a query asks for."""
        return (await self.execute(statement, **values)).scalar()

    async def now(self) -> Moment:
        """Returns the time by the database's clock."""
        told = await self.value(_NOW[self.kind])
        return told if isinstance(told, int) else moment_of(told.replace(tzinfo=UTC))

    @asynccontextmanager
    async def transaction(self, end: str = "rollback") -> AsyncIterator[None]:
        """Makes one transaction of the block, which ends with a `rollback` or a `commit`."""
        await self.execute("BEGIN IMMEDIATE " if self.kind == "sqlite" else "BEGIN")
        try:
            yield
        finally:
            await self.execute(end)

    @asynccontextmanager
    async def holding_up(self) -> AsyncIterator[None]:
        """PostgreSQL: has whoever asks for the advisory lock 1 wait for the end of the block."""
        await self.execute("SELECT pg_advisory_lock(1)")
        try:
            yield
        finally:
            await self.execute("SELECT pg_advisory_unlock_all()")

    async def lock(self, table: str, **key: object) -> None:
        """Locks the row that a column finds, within a transaction.

        On SQLite the transaction has the whole database already, as every writer's has.
        """
        (column,) = key
        suffix = "" if self.kind == "sqlite" else " FOR UPDATE"
        await self.execute(
            f"SELECT {column} FROM {table} WHERE {column} = :{column}{suffix}", **key
        )

    async def count(self, queries: dict[str, str]) -> int:
        """Returns how many of Bylines' connections one of the queries above counts."""
        if self.kind == "mysql":
            await asyncio.sleep(random.uniform(*STALE))  # noqa: S311 - no secret
        onlookers = ", ".join(map(str, _onlookers))
        found: int = await self.value(queries[self.kind].format(onlookers=onlookers))
        return found


@asynccontextmanager
async def looking_on(url: str) -> AsyncIterator[Onlooker]:
    """An onlooker of a database."""
    engine = create_async_engine(past_the_pooler(url), poolclass=NullPool)
    if engine.dialect.name == "sqlite":
        sqlite.introduce(engine)
        outside_of_transactions = engine.execution_options(**AUTOCOMMIT)
    else:
        outside_of_transactions = engine.execution_options(isolation_level="AUTOCOMMIT")
    try:
        async with outside_of_transactions.connect() as connection:
            onlooker = Onlooker(connection)
            number = (
                await onlooker.value("SELECT connection_id()") if onlooker.kind == "mysql" else 0
            )
            _onlookers.add(number)
            try:
                yield onlooker
            finally:
                _onlookers.discard(number)
    finally:
        await engine.dispose()


def checked_out(db: Database) -> int:
    """How many connections of a pool are on loan."""
    pool = db.engine.sync_engine.pool
    assert isinstance(pool, QueuePool)
    return pool.checkedout()


def look(url: str, statement: str, **values: object) -> object:
    """Runs a statement, for tests outside the event loop, and returns the one value it asks for."""

    async def run() -> object:
        async with looking_on(url) as onlooker:
            result = await onlooker.execute(statement, **values)
            return result.scalar() if result.returns_rows else None

    return asyncio.run(run())


async def with_password(url: str, password: str) -> str:
    """Returns the URL by which somebody with a password finds a database; a file has none."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return url
    if parsed.get_backend_name() == "mysql":
        parsed = parsed.set(username="keeper")
        async with looking_on(url) as onlooker:
            await onlooker.execute(
                f"GRANT ALL ON *.* TO keeper@localhost IDENTIFIED BY '{password}'"
            )
    return parsed.set(password=password).render_as_string(hide_password=False)


@asynccontextmanager
async def slow_commits(url: str) -> AsyncIterator[None]:
    """PostgreSQL: holds up commits that add a user; each waits for a lock that the block holds."""
    async with looking_on(url) as onlooker:
        await onlooker.execute(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END'"
        )
        await onlooker.execute(
            "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION wait()"
        )
        try:
            async with onlooker.holding_up():
                yield
        finally:
            await onlooker.execute("DROP FUNCTION wait CASCADE")


@asynccontextmanager
async def locked_user(url: str, user_id: int) -> AsyncIterator[None]:
    """Holds the lock on a user's row while the block lasts."""
    async with looking_on(url) as onlooker, onlooker.transaction():
        await onlooker.lock("users", id=user_id)
        yield


@asynccontextmanager
async def locked_table(url: str, table: str) -> AsyncIterator[None]:
    """Keeps everybody from a table while the block lasts; on SQLite, writers from all tables."""
    async with looking_on(url) as onlooker:
        if onlooker.kind == "mysql":
            await onlooker.execute(f"LOCK TABLES {table} WRITE")
            yield
            await onlooker.execute("UNLOCK TABLES")
            return
        async with onlooker.transaction():
            if onlooker.kind == "postgresql":
                await onlooker.execute(f"LOCK {table} IN ACCESS EXCLUSIVE MODE")
            yield


def in_turn(url: str) -> int:
    """How many callers in this process wait to begin a transaction: those of one writer's file."""
    return len(_beginning.get(_file_of(url), ())) if _is_file(url) else 0


async def until_waiting_for_a_lock(url: str, *, callers: int = 1) -> None:
    """Waits until so many callers of Bylines wait for locks that somebody else holds."""
    if _is_file(url):
        await until(lambda: in_turn(url) >= callers)
        return
    async with looking_on(url) as onlooker:

        async def holds() -> bool:
            return await onlooker.count(_WAITING) >= callers

        await until(holds)


async def until_nobody_waits(url: str) -> None:
    """Waits until no Byline waits for a lock."""
    if _is_file(url):
        await until(lambda: not in_turn(url))
        return
    await _until_none(url, _WAITING)


async def until_idle(url: str) -> None:
    """Waits until no Byline is within a transaction or a statement."""
    if _is_file(url):
        async with looking_on(url) as onlooker, onlooker.transaction():
            return
    await _until_none(url, _AT_WORK)


async def until_connections_are(most: int, url: str) -> None:
    """Waits until Bylines have no more connections to a server than this; a file has none."""
    if _is_file(url):
        return
    async with looking_on(url) as onlooker:

        async def holds() -> bool:
            return await onlooker.count(_ALL) <= most

        await until(holds)


async def until_gone(url: str) -> None:
    """Waits until no Byline is connected, within a transaction or without."""
    if _is_file(url):
        await until(lambda: not _is_open(_file_of(url)))
        return
    await _until_none(url, _ALL)


async def end_connections(url: str) -> None:
    """Ends every connection of Bylines to the database, as a restart of the server does."""
    async with looking_on(url) as onlooker:
        if onlooker.kind == "postgresql":
            # Waits for their ends, ten seconds each at most.
            await onlooker.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'byline'"
            )
            return
        mine = ", ".join(map(str, _onlookers))
        found = await onlooker.rows(
            "SELECT id FROM information_schema.processlist"
            f" WHERE db = DATABASE() AND id NOT IN ({mine})"
        )
        for row in found:
            with suppress(DBAPIError):  # it has ended by itself
                await onlooker.execute(f"KILL {row.id}")
        ended = ", ".join(str(row.id) for row in found) or "0"

        async def holds() -> bool:
            left = f"SELECT count(*) FROM information_schema.processlist WHERE id IN ({ended})"
            return not await onlooker.value(left)

        await until(holds)


async def _until_none(url: str, queries: dict[str, str]) -> None:
    async with looking_on(url) as onlooker:

        async def holds() -> bool:
            return not await onlooker.count(queries)

        await until(holds)


def _is_file(url: str) -> bool:
    return make_url(url).get_backend_name() == "sqlite"


def _file_of(url: str) -> str:
    return str(make_url(url).database)


def _is_open(file: str) -> bool:
    """Tells whether this process has a connection of Byline's to a file."""
    # One that was opened for a caller who had left is closed when it is collected.
    gc.collect()
    return any(
        type(each) is sqlite.Connection
        and getattr(each, "database", None) == file
        and not _is_closed(each)
        for each in gc.get_objects()
    )


def _is_closed(connection: sqlite.Connection) -> bool:
    try:
        return connection.total_changes < 0
    except sqlite3.ProgrammingError:
        return True


class Turn(asyncio.Lock):
    """What transactions on SQLite take turns by, of which an onlooker sees who waits for it."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self._file = file

    async def acquire(self) -> Literal[True]:
        """Waits for the turn."""
        waiting = object()
        _beginning[self._file].add(waiting)
        try:
            return await super().acquire()
        finally:
            _beginning[self._file].discard(waiting)


def turns(engine: AsyncEngine) -> Turn | None:
    """Stands for `storage.dialects.transactions.turns`."""
    return Turn(str(engine.url.database)) if engine.dialect.name == "sqlite" else None


@event.listens_for(Engine, "before_cursor_execute")
def _note_beginning(connection: Any, _: object, statement: str, *rest: Any) -> None:  # noqa: ANN401 - SQLAlchemy's
    if statement == BEGIN:
        _, execution, _ = rest
        _beginning[str(connection.engine.url.database)].add(execution)


@event.listens_for(Engine, "after_cursor_execute")
def _note_begun(connection: Any, _: object, statement: str, *rest: Any) -> None:  # noqa: ANN401 - SQLAlchemy's
    if statement == BEGIN:
        _, execution, _ = rest
        _beginning[str(connection.engine.url.database)].discard(execution)


@event.listens_for(Engine, "handle_error")
def _note_failed(error: Any) -> None:  # noqa: ANN401 - SQLAlchemy's
    if error.statement == BEGIN:
        _beginning[str(error.engine.url.database)].discard(error.execution_context)
