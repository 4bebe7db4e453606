"""What MariaDB's driver is held to, so that nothing is sent that a transaction does not need."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from asyncmy import connection as driver
from sqlalchemy import event
from sqlalchemy.dialects.mysql.base import MySQLCompiler

from storage.dialects.transactions import beginning_of

if TYPE_CHECKING:
    from sqlalchemy import Update
    from sqlalchemy.ext.asyncio import AsyncEngine


class Connection(driver.Connection):
    """A connection that is in autocommit until a transaction is begun by a statement."""

    async def rollback(self) -> None:
        """Rolls back, if there is what to roll back."""
        # The pool has every connection that comes back rolled back, and most have ended by then.
        if self.get_transaction_status():
            await super().rollback()

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
        async with asyncio.timeout(connect_timeout):
            await connection.connect()
    except BaseException:
        connection.close()
        raise
    return connection


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


def introduce(engine: AsyncEngine) -> None:
    """Has transactions begin by statements, and statements written as above."""
    engine.dialect.statement_compiler = Compiler

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:  # noqa: ANN401 - SQLAlchemy's
        for statement in beginning_of(connection):
            connection.exec_driver_sql(statement)
