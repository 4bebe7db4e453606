"""What MariaDB's driver is held to, so that nothing is sent that a transaction does not need."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from asyncmy import connection as driver
from asyncmy.errors import MySQLError
from sqlalchemy import event
from sqlalchemy.dialects.mysql.base import MySQLCompiler
from sqlalchemy.exc import OperationalError

from storage.dialects.transactions import beginning_of
from storage.usage import LEAST, bound, seconds_left

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Update
    from sqlalchemy.engine import ExceptionContext
    from sqlalchemy.ext.asyncio import AsyncEngine

# What takes a bound of its own; to begin a transaction, and to end it, does not.
_BOUNDED = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "(")
_BOUND = "SET STATEMENT max_statement_time = {seconds:.3f} FOR "
_WITHOUT_WAITING = (
    "SET STATEMENT max_statement_time = {seconds:.3f}, innodb_lock_wait_timeout = 0,"
    " lock_wait_timeout = 0 FOR "
)
# https://mariadb.com/kb/en/mariadb-error-codes/
_LOCK_WAIT_TIMEOUT = 1205
_STATEMENT_TIMEOUT = 1969


class Connection(driver.Connection):
    """A connection that is in autocommit until a transaction is begun by a statement."""

    async def rollback(self) -> None:
        """Rolls back, if there is what to roll back."""
        # The pool has every connection that comes back rolled back, and most have ended by then.
        if self.get_transaction_status():
            await super().rollback()

    async def show_warnings(self) -> None:
        """Asks for none."""
        # They tell of rows that an INSERT IGNORE passes over, which it is there for. The driver
        # would log them, with their values, for a round trip each time.

    def character_set_name(self) -> None:
        """Names none."""
        # SQLAlchemy would SET NAMES to it, which was said in the handshake, and which takes the
        # collation back that the connection was told.


async def connect(*, connect_timeout: float, **options: Any) -> Connection:  # noqa: ANN401 - as the driver has them
    """Opens a connection.

    Args:
        connect_timeout: in seconds, for all of it. The driver's own bounds no more than the way to
            a server, which may answer nothing then.
        options: the driver's.

    Raises:
        TimeoutError: when it takes longer.
    """
    connection = Connection(**options)  # type: ignore[no-untyped-call]  # so its stubs say
    try:
        with _heeding_cancellation():
            async with asyncio.timeout(connect_timeout):
                await connection.connect()
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _heeding_cancellation() -> Iterator[None]:
    """Cancels the block's caller by a cancellation that the block passed over.

    The driver waits by `asyncio.wait_for`, which before Python 3.12 passes over one that comes
    along with what it waits for.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    finally:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError


class Compiler(MySQLCompiler):
    """Writes statements so that they lock the rows that they are about, and no others."""

    def update_tables_clause(
        self,
        update_stmt: Update,
        from_table: Any,  # noqa: ANN401 - the interface
        extra_froms: list[Any],
        **kw: Any,  # noqa: ANN401 - the interface
    ) -> str:
        """Has the rows of a table looked up by those that it is joined with for an update.

        MariaDB would read all of a small table, and wait for whoever has locked any row of it.
        """
        written = super().update_tables_clause
        tables = [written(update_stmt, each, [], **kw) for each in (*extra_froms, from_table)]
        return " STRAIGHT_JOIN ".join(tables) + (" FORCE INDEX (PRIMARY)" if extra_froms else "")


def introduce(engine: AsyncEngine, statement_timeout: float) -> None:
    """Has transactions begin by statements, and statements written as above and kept in time.

    Args:
        engine: of asyncmy's.
        statement_timeout: seconds that a statement may run anyway; 0 for no bound.
    """
    engine.dialect.statement_compiler = Compiler

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:  # noqa: ANN401 - SQLAlchemy's
        for statement in beginning_of(connection):
            connection.exec_driver_sql(statement)

    @event.listens_for(engine.sync_engine, "before_cursor_execute", retval=True)
    def prefix(*told: Any) -> tuple[str, Any]:  # noqa: ANN401 - SQLAlchemy's
        _, _, statement, parameters, _, is_many = told
        # What is sent for many rows at once, the driver knows by how it begins.
        if not is_many and statement.lstrip().startswith(_BOUNDED):
            statement = within_deadline(statement, statement_timeout)
        return statement, parameters

    event.listen(engine.sync_engine, "handle_error", _tell_locks)


def within_deadline(statement: str, statement_timeout: float) -> str:
    """Returns a statement that ends with its caller's deadline, where that is the closer bound.

    Args:
        statement: what is to be sent.
        statement_timeout: seconds that it may run anyway; 0 for no bound.
    """
    seconds = bound(statement_timeout)
    if seconds is None or seconds == statement_timeout:
        return statement
    return _BOUND.format(seconds=seconds) + statement


def _tell_locks(error: ExceptionContext) -> BaseException | None:
    """Tells of a statement that a deadline stopped whether a lock was in its way.

    MariaDB does not say. The same statement, told not to wait for any lock, does at once; whatever
    else becomes of it is rolled back.
    """
    prefix, is_bound, statement = (error.statement or "").partition(" FOR ")
    if (
        error.connection is None
        or _number_of(error.original_exception) != _STATEMENT_TIMEOUT
        or not (is_bound and prefix.startswith("SET STATEMENT "))
    ):
        return None
    cursor: Any = error.connection.connection.cursor()
    try:
        asked = _WITHOUT_WAITING.format(seconds=max(LEAST, seconds_left() / 2)) + statement
        cursor.execute(asked, error.parameters)
    except MySQLError as refused:
        if _number_of(refused) == _LOCK_WAIT_TIMEOUT:
            return OperationalError(error.statement, None, refused, hide_parameters=True)
    except asyncio.CancelledError as left:
        # SQLAlchemy gives up a connection that is left at what it sends itself, and not at this.
        error.connection.invalidate(left)
        raise
    finally:
        cursor.close()
    return None


def _number_of(error: BaseException) -> object:
    return error.args[0] if error.args else None
