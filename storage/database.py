"""The engine, its pool, and the two ways in: `transaction()` and `read()`.

What every transaction needs is here, once: nothing else in Byline commits.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from asyncpg import InterfaceError, PostgresError
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolWaitError

from storage.dialects.direct import Rows, driver_of, words_of
from storage.dialects.engine import make_engine
from storage.dialects.leaving import stop_what_is_left
from storage.dialects.transactions import AUTOCOMMIT, beginning_of, snapshot_options, turns
from storage.errors import (
    DatabaseDown,
    LockTimeout,
    PoolTimeout,
    StorageError,
    meaning_of,
    translate,
)
from storage.stack import calling_function
from storage.usage import COMMIT, Figures, Sent, Wait, begin_run, bound, waiting_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from sqlalchemy import CursorResult, Dialect, Executable
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
    from sqlalchemy.pool import ConnectionPoolEntry

    from storage.dialects.postgresql import Connection
    from storage.usage import Parameters, Run

    # What a statement answered.
    Result = CursorResult[Any] | Rows

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """How the pool behaves, and what every connection is told. All times are in seconds.

    Args:
        size: connections kept open.
        overflow: connections opened above `size` when all are busy, closed when done.
        wait: how long a caller waits for a connection before `PoolTimeout`.
        recycle: the age at which a connection is replaced.
        connect_timeout: how long opening a connection may take.
        statement_timeout: how long a statement may run before `StatementTimeout`; 0 for no bound.
        lock_timeout: how long a statement may wait for a lock before `LockTimeout`; 0 for no bound.
    """

    size: int = 10
    overflow: int = 5
    wait: float = 5.0
    recycle: float = 1800.0
    connect_timeout: float = 5.0
    statement_timeout: float = 30.0
    lock_timeout: float = 10.0


class PoolState(NamedTuple):
    """How a pool stands, in connections.

    Args:
        limit: that it opens at most.
        open: that it has open.
        on_loan: those of them that somebody has.
    """

    limit: int
    open: int
    on_loan: int


_PING = text("SELECT 1")
# What PostgreSQL's own driver raises.
DRIVER_ERRORS = (PostgresError, InterfaceError, OSError)


@dataclass(slots=True)
class Session:
    """A connection on loan from the pool.

    The first statement may find the connection dead: nothing has happened on it yet, so the
    statement goes to a fresh one, once. This is what stands in for a ping before every use.
    """

    _engine: AsyncEngine
    _connection: AsyncConnection
    _figures: Figures
    _untouched: bool = field(default=True)
    _failure: StorageError | None = field(default=None)
    # PostgreSQL's own, which is told itself what begins and ends a transaction.
    _driver: Connection | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Finds the driver's connection."""
        self._driver = driver_of(self._connection)

    @property
    def dialect(self) -> str:
        """Which kind of database this is: `postgresql`, `mysql` or `sqlite`."""
        return self._engine.dialect.name

    @property
    def driver(self) -> Connection | None:
        """PostgreSQL's own connection; None on the others."""
        return self._driver

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
        self, driver: Connection, statement: Executable, parameters: Parameters, run: Run | None
    ) -> Result:
        """Sends a statement to the driver itself where that can be, after what it is to be in."""
        if self._untouched:
            for beginning in beginning_of(self._connection.sync_connection):
                await self._tell(driver, beginning)
        words = words_of(driver, statement, parameters, self._engine.dialect)
        if words is None:
            return await self._run(statement, parameters, run)
        values = words.values(cast("Mapping[str, Any]", parameters or {}))
        if run is not None:
            run.tell(words.sql, values)
        return await self._from_driver(driver, words.sql, words.send(driver, values))

    async def _tell(self, driver: Connection, frame: str) -> None:
        """Sends what begins or ends a transaction."""
        await self._from_driver(driver, frame, driver.execute(frame))

    async def _from_driver(self, driver: Connection, sql: str, answer: Awaitable[Answer]) -> Answer:
        """Waits for the driver's answer, and gives its connection up with a caller who leaves.

        What a connection is at that has been left, nobody else can know.
        """
        try:
            return await answer
        except DRIVER_ERRORS as error:
            if not driver.is_closed():
                raise meaning_of(error, sql) from None
            await self._give_up()
            raise DatabaseDown("the connection was lost") from None
        except asyncio.CancelledError:
            await self._connection.invalidate()
            raise

    async def _give_up(self) -> None:
        """Has the pool know that the connection is dead, as those may be that are as old."""
        with suppress(DBAPIError, PendingRollbackError):
            await self._connection.execute(_PING)

    async def _replace_connection(self) -> None:
        await self._connection.invalidate()
        await self._connection.close()
        self._connection = await _connect(self._engine, self._figures)
        self._driver = driver_of(self._connection)
        self._failure = None

    @property
    def waits_to_close(self) -> bool:
        """Whether giving the connection back takes a word with the database."""
        driver = self._driver
        if driver is None or driver.is_closed() or driver.is_in_transaction():
            return True
        pool: Any = self._engine.pool
        # Those beyond the pool's size are closed.
        return bool(pool.overflow() > 0)

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
            await self._connection.close()


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


@dataclass(slots=True)
class Transaction(Session):
    """Statements that take effect together when the block ends, or not at all.

    One that fails fails all that follow, and the commit. Otherwise PostgreSQL would commit nothing
    without a word, and the others would commit the rest; MariaDB ends a transaction that met a
    deadlock, and would commit each further statement by itself.
    """

    _turn: asyncio.Lock | None = None
    is_single: bool = False
    _is_over: bool = False

    async def at_once(self, statement: Executable, parameters: Parameters) -> Sequence[Any]:
        """Runs a statement that does all there is to do, and returns its rows; none if it did not.

        By itself, if that was said to be all: without BEGIN and COMMIT around it, and nothing may
        follow. A connection that is dead is found out before, since what is sent on one might have
        been done.

        Raises:
            StorageError: as `storage.errors.translate` says.
        """
        driver = self._driver if self.is_single and self._untouched else None
        if driver is None or not driver.is_direct or driver.has_news:
            return (await self.execute(statement, parameters)).all()
        self._untouched = False
        rows = (await self._execute(statement, parameters)).all()
        self._is_over = bool(rows)
        self._untouched = not rows
        return rows

    async def execute(self, statement: Executable, parameters: Parameters = None) -> Result:
        """Runs one statement and returns its buffered result.

        Raises:
            StorageError: as `storage.errors.translate` says, or again that of a statement before.
        """
        self._ensure_whole()
        if self._is_over:
            raise RuntimeError("the transaction was said to be one call of storage, and is over")
        return await Session.execute(self, statement, parameters)

    async def driver_connection(self) -> Any:  # noqa: ANN401 - the driver's, whatever it is
        """Returns the driver's own connection, for what SQLAlchemy has no words for."""
        raw = await self._connection.get_raw_connection()
        return raw.driver_connection

    async def close(self) -> None:
        """Gives the connection back, rolled back if a transaction is open on it."""
        try:
            await Session.close(self)
        finally:
            if self._turn is not None:
                self._turn.release()

    async def commit(self) -> None:
        """Commits. A cancelled caller waits for the outcome: a commit under way is not stopped."""
        self._ensure_whole()
        committing = asyncio.ensure_future(self._commit())
        try:
            with waiting_for(Wait.STATEMENT, self._figures.functions[COMMIT], begin_run(COMMIT)):
                await asyncio.shield(committing)
        except asyncio.CancelledError:
            await asyncio.wait([committing])
            if not committing.cancelled():
                committing.exception()
            raise

    async def _commit(self) -> None:
        if self._is_over:
            return
        driver = self._driver
        if driver is not None:
            if not self._untouched:
                await self._tell(driver, "COMMIT;")
            return
        try:
            await self._connection.commit()
        except DBAPIError as error:
            raise translate(error) from None
        except PendingRollbackError as error:
            raise DatabaseDown("the connection was lost within the transaction") from error

    def _ensure_whole(self) -> None:
        if self._failure is not None:
            raise self._failure


@dataclass(slots=True)
class Unit:
    """Blocks of `transaction()` that take effect together, or not at all.

    Args:
        begin: called with the transaction before the first block has it.
        tx: the transaction, once a block has asked for one.
    """

    begin: Callable[[Transaction], Awaitable[None]]
    tx: Transaction | None = None
    _failed: bool = field(default=False)

    @asynccontextmanager
    async def joined(
        self, opened: Callable[[], Awaitable[Transaction]]
    ) -> AsyncIterator[Transaction]:
        """Lends the transaction to one block, and opens it for the first."""
        self._ensure_whole()
        try:
            if self.tx is None:
                self.tx = await opened()
                await self.begin(self.tx)
            yield self.tx
        except BaseException:
            self._failed = True
            raise

    @property
    def is_untouched(self) -> bool:
        """Whether no block has asked for the transaction."""
        return self.tx is None and not self._failed

    async def commit(self) -> None:
        """Commits what the blocks did."""
        self._ensure_whole()
        if self.tx is not None:
            await self.tx.commit()

    def _ensure_whole(self) -> None:
        # A servicer that passes over the failure of a block would have the rest of it committed.
        if self._failed:
            raise RuntimeError("a transaction that failed is part of this unit")


_unit: ContextVar[Unit | None] = ContextVar("unit", default=None)


@asynccontextmanager
async def unit(begin: Callable[[Transaction], Awaitable[None]]) -> AsyncIterator[Unit]:
    """Makes one transaction of all that are opened in the block; it commits when the block ends.

    A block that opens none has no transaction, and `begin` is not called.

    Args:
        begin: called with the transaction before anybody else has it. What it raises, the first
            to open a transaction gets.

    Raises:
        Contention: when the commit fails for what other transactions did.
    """
    made = Unit(begin)
    token = _unit.set(made)
    try:
        yield made
        await made.commit()
    finally:
        _unit.reset(token)
        if made.tx is not None:
            await _finish(made.tx)


class Database:
    """A database, reached through one pool.

    Args:
        url: where it is, as SQLAlchemy spells it: `postgresql+asyncpg://user@host/name`.
        pool: how the pool behaves.
    """

    def __init__(self, url: str, pool: PoolConfig | None = None) -> None:
        pool = pool or PoolConfig()
        self.figures = Figures()
        self._most = pool.size + pool.overflow
        self._engine = make_engine(url, pool)
        self._turn = turns(self._engine)
        self._patience = pool.lock_timeout
        self._autocommit = self._engine.execution_options(**AUTOCOMMIT)
        self._snapshot = self._engine.execution_options(**snapshot_options(self._engine))
        self._vital = make_engine(url, replace(pool, size=1, overflow=0)).execution_options(
            **AUTOCOMMIT
        )
        self._killer = stop_what_is_left(self._engine, self._vital, pool.connect_timeout)

    @property
    def engine(self) -> AsyncEngine:
        """The engine, for those who count statements or look at the pool."""
        return self._engine

    @property
    def pool(self) -> PoolState:
        """How the pool stands."""
        pool: Any = self._engine.pool
        return PoolState(self._most, pool.checkedin() + pool.checkedout(), pool.checkedout())

    @asynccontextmanager
    async def transaction(self, *, single: bool = False) -> AsyncIterator[Transaction]:
        """Opens a transaction that commits when the block ends and rolls back when it raises.

        Within a `unit`, the block is a part of the unit's transaction.

        Args:
            single: says that the block calls storage once. Where that is one statement, it takes
                one round trip, and what the block raises after it does not undo it.

        Raises:
            PoolTimeout: when no connection comes free in time.
            DatabaseDown: when no connection can be opened.
            Contention: when the commit fails for what other transactions did.
        """
        whole = _unit.get()
        if whole is not None:
            async with whole.joined(self._opened) as tx:
                yield tx
            return
        tx = await self._opened()
        tx.is_single = single
        try:
            yield tx
            await tx.commit()
        finally:
            await _finish(tx)

    async def _opened(self) -> Transaction:
        """Opens a transaction, when it is its turn where they take turns."""
        if self._turn is None:
            return await self._transaction()
        try:
            with waiting_for(Wait.LOCK):
                async with asyncio.timeout(bound(self._patience)):
                    await self._turn.acquire()
        except TimeoutError:
            raise LockTimeout("other transactions did not end in time") from None
        try:
            return await self._transaction()
        except BaseException:
            self._turn.release()
            raise

    async def _transaction(self) -> Transaction:
        connection = await _connect(self._engine, self.figures)
        return Transaction(self._engine, connection, self.figures, _turn=self._turn)

    @asynccontextmanager
    async def read(self, *, snapshot: bool = False) -> AsyncIterator[Read]:
        """Lends a connection in autocommit: one statement costs one round trip.

        Args:
            snapshot: makes all statements of the block see the same state of the database, for
                the price of a transaction around them.

        Raises:
            PoolTimeout: when no connection comes free in time.
            DatabaseDown: when no connection can be opened.
        """
        engine = self._snapshot if snapshot else self._autocommit
        async with self._reading(engine, self.figures) as read:
            yield read

    @asynccontextmanager
    async def _reading(self, engine: AsyncEngine, figures: Figures) -> AsyncIterator[Read]:
        read = Read(engine, await _connect(engine, figures), figures)
        try:
            yield read
        finally:
            await _finish(read)

    async def ping(self) -> None:
        """Asks the database for a sign of life, on a connection that waits for no other work.

        Raises:
            DatabaseDown: when there is none.
        """
        async with self._reading(self._vital, Figures()) as read:
            await read.execute(_PING)

    async def close(self) -> None:
        """Closes every connection of the pool. Those on loan close when they come back."""
        if self._killer is not None:
            await self._killer.done()
        for engine in (self._vital, self._engine):
            event.listen(engine.sync_engine.pool, "checkin", _close_entry)
            await engine.dispose()


def _close_entry(_: object, entry: ConnectionPoolEntry) -> None:
    entry.close()


async def _connect(engine: AsyncEngine, figures: Figures) -> AsyncConnection:
    """Checks a connection out of the pool."""
    try:
        with waiting_for(Wait.POOL, figures.pool):
            return await engine.connect()
    except PoolWaitError as error:
        raise PoolTimeout("no database connection came free in time") from error
    except DBAPIError as error:
        raise _down(translate(error)) from error
    except (OSError, TimeoutError) as error:
        raise DatabaseDown("the database cannot be reached") from error


def _down(error: StorageError) -> StorageError:
    """Whatever keeps a connection from opening, the database is down for the caller."""
    return error if isinstance(error, DatabaseDown) else DatabaseDown(str(error))


async def _finish(session: Session) -> None:
    """Returns the connection even if the caller is cancelled while it goes back."""
    if not session.waits_to_close:
        await session.close()
        return
    returning = asyncio.ensure_future(session.close())
    try:
        await asyncio.shield(returning)
    except asyncio.CancelledError:
        await asyncio.wait([returning])
        raise
