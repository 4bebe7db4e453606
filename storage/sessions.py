"""Connections on loan from the pool, and the statements that are sent on them.

What is dead, and what has been left, is known here; `storage/database.py` lends and commits.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar, cast

from asyncpg import InterfaceError, InternalClientError, PostgresError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, MissingGreenlet, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolWaitError
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.dialects.direct import Rows, driver_of, words_of
from storage.dialects.transactions import beginning_of
from storage.errors import DatabaseDown, PoolTimeout, StorageError, meaning_of, translate
from storage.stack import calling_function
from storage.usage import Figures, Sent, Wait, begin_run, waiting_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from sqlalchemy import CursorResult, Dialect, Executable
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import PoolProxiedConnection

    from storage.dialects.postgresql import Connection as Driver
    from storage.usage import Parameters, Run

    # What a statement answered.
    Result = CursorResult[Any] | Rows
    # A connection as SQLAlchemy has it, or as its pool does.
    Lent = AsyncConnection | PoolProxiedConnection

Answer = TypeVar("Answer")

PING = text("SELECT 1")
# What PostgreSQL's own driver raises.
DRIVER_ERRORS = (PostgresError, InterfaceError, OSError)


@dataclass(slots=True)
class Session:
    """A connection on loan from the pool.

    The first statement may find the connection dead: nothing has happened on it yet, so the
    statement goes to a fresh one, once. This is what stands in for a ping before every use.
    """

    _engine: AsyncEngine
    _lent: Lent
    _figures: Figures
    _untouched: bool = field(default=True)
    _failure: StorageError | None = field(default=None)
    # PostgreSQL's own, which is told itself what begins and ends a transaction.
    _driver: Driver | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Finds the driver's connection."""
        self._driver = driver_of(self._engine, self._lent)

    @property
    def _connection(self) -> AsyncConnection:
        """SQLAlchemy's connection, which costs as much as the loan: made where it has a part."""
        if not isinstance(self._lent, AsyncConnection):
            around = Connection(self._engine.sync_engine, self._lent)
            self._lent = AsyncConnection(self._engine, around)
        return self._lent

    @property
    def dialect(self) -> str:
        """Which kind of database this is: `postgresql`, `mysql` or `sqlite`."""
        return self._engine.dialect.name

    @property
    def sql_dialect(self) -> Dialect:
        """How this database's SQL is written."""
        return self._engine.dialect

    async def execute(self, statement: Executable, parameters: Parameters = None) -> Result:
        """Runs one statement and returns its buffered result.

        Raises:
            StorageError: as `storage.errors.translate` says.
        """
        try:
            return await self._execute(statement, parameters)
        except DatabaseDown:
            if not self._untouched:
                raise
            await self._replace_connection()
            return await self._execute(statement, parameters)
        finally:
            self._untouched = False

    async def _execute(self, statement: Executable, parameters: Parameters) -> Result:
        function = calling_function()
        sent = Sent.of(statement, parameters, self._engine.dialect)
        run = begin_run(function, sent)
        with waiting_for(Wait.STATEMENT, self._figures.functions[function], run) as use:
            use.statements += 1
            use.sent.append(sent)
            try:
                if self._driver is not None:
                    return await self._send(self._driver, statement, parameters, run)
                return await self._run(statement, parameters, run)
            except StorageError as error:
                self._failure = error
                raise

    async def _run(
        self, statement: Executable, parameters: Parameters, run: Run | None
    ) -> CursorResult[Any]:
        """Has SQLAlchemy run a statement."""
        try:
            result = await self._connection.execute(statement, parameters)
        except DBAPIError as error:
            if run is not None:
                run.tell(error.statement, error.params)
            raise translate(error) from None
        except PendingRollbackError:
            raise DatabaseDown("the connection was lost within the transaction") from None
        if run is not None:
            run.tell(result.context.statement, result.context.parameters)
        return result

    async def _send(
        self,
        driver: Driver,
        statement: Executable,
        parameters: Parameters,
        run: Run | None,
    ) -> Result:
        """Sends a statement to the driver itself where that can be, after what it is to be in."""
        if self._untouched:
            for beginning in beginning_of(self._engine.sync_engine):
                await self._tell(driver, beginning)
        words = words_of(driver, statement, parameters, self._engine.dialect)
        if words is None:
            return await self._run(statement, parameters, run)
        values = words.values(cast("Mapping[str, Any]", parameters or {}))
        if run is not None:
            run.tell(words.sql, values)
        return await self._from_driver(driver, words.sql, words.send(driver, values))

    async def _tell(self, driver: Driver, frame: str) -> None:
        """Sends what begins or ends a transaction."""
        await self._from_driver(driver, frame, driver.execute(frame))

    async def _from_driver(self, driver: Driver, sql: str, answer: Awaitable[Answer]) -> Answer:
        """Waits for the driver's answer, and gives its connection up with a caller who leaves.

        What a connection is at that has been left, nobody else can know.
        """
        try:
            answered = await answer
        except DRIVER_ERRORS as error:
            if not driver.is_closed():
                raise meaning_of(error, sql) from None
            await self._give_up()
            raise DatabaseDown("the connection was lost") from None
        except InternalClientError:
            # PgBouncer's word that it ends a connection may come where the driver expects none.
            await self._connection.invalidate()
            raise DatabaseDown("the connection was lost") from None
        except asyncio.CancelledError:
            await self._connection.invalidate()
            raise
        driver.answered = monotonic()
        return answered

    async def _give_up(self) -> None:
        """Has the pool know that the connection is dead, as those may be that are as old."""
        with suppress(DBAPIError, PendingRollbackError):
            await self._connection.execute(PING)

    async def _replace_connection(self) -> None:
        await self._connection.invalidate()
        await self._connection.close()
        self._lent = await connect(self._engine, self._figures)
        self._driver = driver_of(self._engine, self._lent)
        self._failure = None

    @property
    def waits_to_close(self) -> bool:
        """Whether giving the connection back takes a word with the database."""
        driver = self._driver
        if driver is None or driver.is_closed() or driver.is_in_transaction():
            return True
        pool: Any = self._engine.pool
        # Those beyond the pool's size are closed, and all of a closed database, where that is what
        # listens for them to come back.
        return bool(pool.overflow() > 0 or pool.dispatch.checkin)

    async def close(self) -> None:
        """Gives the connection back, rolled back if a transaction is open on it."""
        driver = self._driver
        try:
            if driver is not None and not driver.is_closed() and driver.is_in_transaction():
                await self._tell(driver, "ROLLBACK;")
        except StorageError:
            # Whoever has the connection next would be in a transaction of others.
            await self._connection.invalidate()
        finally:
            # The pool gives up what cannot be rolled back; what the block came to stands.
            with suppress(DBAPIError):
                await self._connection.close()

    def give_back(self) -> None:
        """Gives the connection back, where that does not wait."""
        lent = self._lent.sync_connection if isinstance(self._lent, AsyncConnection) else self._lent
        if lent is not None:
            lent.close()


class Read(Session):
    """Statements that change nothing, each on its own unless a snapshot was asked for."""

    async def send(self, sql: str, values: tuple[Any, ...]) -> CursorResult[Any]:
        """Runs a statement that is in the driver's words already; returns its buffered result.

        Raises:
            StorageError: as `storage.errors.translate` says.
        """
        with waiting_for(Wait.STATEMENT, self._figures.functions[calling_function()]):
            try:
                return await self._connection.exec_driver_sql(sql, values)
            except DBAPIError as error:
                raise translate(error) from None


async def connect(engine: AsyncEngine, figures: Figures) -> Lent:
    """Checks a connection out of the pool."""
    try:
        with waiting_for(Wait.POOL, figures.pool):
            return _at_hand(engine) or await engine.connect()
    except PoolWaitError as error:
        raise PoolTimeout("no database connection came free in time") from error
    except DBAPIError as error:
        raise _down(translate(error)) from error
    except (OSError, TimeoutError) as error:
        raise DatabaseDown("the database cannot be reached") from error


def _at_hand(engine: AsyncEngine) -> PoolProxiedConnection | None:
    """Checks out PostgreSQL's connection that came back last, if it is open; None if it is not.

    That waits for nothing, and so needs no greenlet, which costs more than the loan itself.
    """
    pool: Any = engine.pool
    if engine.dialect.name != "postgresql" or not pool.checkedin():
        return None
    try:
        return engine.sync_engine.raw_connection()
    except MissingGreenlet:
        # It is to be opened again, being too old or dead.
        return None


def _down(error: StorageError) -> StorageError:
    """Whatever keeps a connection from opening, the database is down for the caller."""
    return error if isinstance(error, DatabaseDown) else DatabaseDown(str(error))


async def finish(session: Session) -> None:
    """Returns the connection even if the caller is cancelled while it goes back."""
    if not session.waits_to_close:
        session.give_back()
        return
    returning = asyncio.ensure_future(session.close())
    try:
        await asyncio.shield(returning)
    except asyncio.CancelledError:
        await asyncio.wait([returning])
        raise
