"""The engine, its pool, and the two ways in: `transaction()` and `read()`.

What every transaction needs is here, once: nothing else in Byline commits.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, PendingRollbackError

from storage.dialects.engine import make_engine
from storage.dialects.errands import Errands
from storage.dialects.leaving import stop_what_is_left
from storage.dialects.reopening import reopen_what_is_broken
from storage.dialects.transactions import AUTOCOMMIT, snapshot_options, turns
from storage.errors import DatabaseDown, LockTimeout, translate
from storage.sessions import PING, Read, Session, connect, finish
from storage.usage import COMMIT, Figures, Wait, begin_run, bound, waiting_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from sqlalchemy import Executable
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import ConnectionPoolEntry

    from storage.dialects.postgresql import Connection
    from storage.sessions import Result
    from storage.usage import Parameters


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """How the pool behaves, and what every connection is told. All times are in seconds.

    Args:
        size: connections kept open.
        overflow: connections opened above `size` when all are busy, closed when done. A burst that
            ends closes them, and the next opens them again, which costs more than a write does.
        wait: how long a caller waits for a connection before `PoolTimeout`.
        recycle: the age at which a connection is replaced.
        connect_timeout: how long opening a connection may take.
        statement_timeout: how long a statement may run before `StatementTimeout`; 0 for no bound.
        lock_timeout: how long a statement may wait for a lock before `LockTimeout`; 0 for no bound.
    """

    size: int = 15
    overflow: int = 0
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


@dataclass(slots=True)
class Transaction(Session):
    """Statements that take effect together when the block ends, or not at all.

    One that is all there is may take effect by itself, when it answers: see `at_once`.

    One that fails fails all that follow, and the commit. Otherwise PostgreSQL would commit nothing
    without a word, and the others would commit the rest; MariaDB ends a transaction that met a
    deadlock, and would commit each further statement by itself.
    """

    _turn: asyncio.Lock | None = None
    is_single: bool = False
    _is_over: bool = False

    @property
    def alone(self) -> Connection | None:
        """What a statement may be sent on by itself, without BEGIN and COMMIT; None if it may not.

        It may if it was said to be all there is, on PostgreSQL. BEGIN can be sent again where it
        finds a connection dead, and such a statement cannot: the connection must have answered of
        late, and nothing may have come since.
        """
        driver = self._driver if self.is_single and self._untouched else None
        if driver is None or not driver.is_direct or not driver.answers:
            return None
        return driver

    async def at_once(self, statement: Executable, parameters: Parameters) -> Sequence[Any]:
        """Runs a statement by itself, which does all there is to do, and returns its rows.

        It takes effect when it answers, and nothing may follow. Where it returns none it has done
        nothing, and others may.

        Raises:
            StorageError: as `storage.errors.translate` says.
        """
        self._ensure_whole()
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
        return await Session.execute(self, statement, parameters)

    async def driver_connection(self) -> Any:  # noqa: ANN401 - the driver's, whatever it is
        """Returns the driver's own connection, for what SQLAlchemy has no words for."""
        self._ensure_whole()
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
        if self._is_over:
            return
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
        if self._is_over:
            raise RuntimeError("the transaction was said to be one call of storage, and is over")


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
            await finish(made.tx)


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
        # What ends others' waits must not wait for them; what waits itself has no vital connection.
        kills = Errands(self._vital, pool.connect_timeout)
        stop_what_is_left(self._engine, kills)
        repairs = Errands(self._autocommit, pool.connect_timeout)
        reopen_what_is_broken(self._engine, repairs)
        self._errands = (kills, repairs)

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
            await finish(tx)

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
        connection = await connect(self._engine, self.figures)
        return Transaction(self._engine, connection, self.figures, _turn=self._turn)

    def read(self, *, snapshot: bool = False) -> AbstractAsyncContextManager[Read]:
        """Lends a connection in autocommit: one statement costs one round trip.

        Args:
            snapshot: makes all statements of the block see the same state of the database, for
                the price of a transaction around them.

        Raises:
            PoolTimeout: when no connection comes free in time.
            DatabaseDown: when no connection can be opened.
        """
        return _Reading(self._snapshot if snapshot else self._autocommit, self.figures)

    async def ping(self) -> None:
        """Asks the database for a sign of life, on a connection that waits for no other work.

        Raises:
            DatabaseDown: when there is none.
        """
        async with _Reading(self._vital, Figures()) as read:
            await read.execute(PING)

    async def close(self) -> None:
        """Closes every connection of the pool. Those on loan close when they come back."""
        for errands in self._errands:
            await errands.done()
        for engine in (self._vital, self._engine):
            event.listen(engine.sync_engine.pool, "checkin", _close_entry)
            await engine.dispose()


class _Reading(AbstractAsyncContextManager["Read"]):
    """A connection that is lent for a block: a generator would take a tenth of the loan."""

    __slots__ = ("_engine", "_figures", "_read")

    def __init__(self, engine: AsyncEngine, figures: Figures) -> None:
        self._engine = engine
        self._figures = figures

    async def __aenter__(self) -> Read:
        self._read = Read(self._engine, await connect(self._engine, self._figures), self._figures)
        return self._read

    async def __aexit__(self, *_: object) -> None:
        await finish(self._read)


def _close_entry(_: object, entry: ConnectionPoolEntry) -> None:
    entry.close()
