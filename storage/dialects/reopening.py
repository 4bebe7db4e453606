"""What becomes of a table that MariaDB was stopped at opening: it is opened anew.

MariaDB reads a table's triggers as it opens it, and keeps it open for whoever comes next. A
statement that is stopped meanwhile, by KILL or by max_statement_time, leaves the table open with a
trigger that is cut short, and every write to it fails from then on. To open it anew, FLUSH TABLES
takes a privilege on the whole server, and ALTER TABLE one that whoever migrates has.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from storage.dialects.errors import is_of_a_broken_trigger

if TYPE_CHECKING:
    from sqlalchemy.engine import ExceptionContext
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from storage.dialects.errands import Errands

_HAVE_TRIGGERS = """
    SELECT DISTINCT event_object_table FROM information_schema.triggers
    WHERE trigger_schema = DATABASE()
"""
# InnoDB's indexes cannot be turned off, so that nothing is done but to open the table anew, which
# takes that nobody is within a transaction on it. Others wait behind, for a second at most.
_REOPEN = "SET STATEMENT sql_notes = 0, lock_wait_timeout = 1 FOR ALTER TABLE {table} ENABLE KEYS"


def reopen_what_is_broken(engine: AsyncEngine, errands: Errands) -> None:
    """Has tables opened anew when a write finds a trigger broken.

    Args:
        engine: whose writes.
        errands: to the same database.
    """
    if engine.dialect.name != "mysql":
        return

    @event.listens_for(engine.sync_engine, "handle_error")
    def failed(error: ExceptionContext) -> None:
        if is_of_a_broken_trigger(error.original_exception):
            errands.begin(_reopen)


async def _reopen(connection: AsyncConnection) -> None:
    # The error does not always name the trigger, and never the table.
    for table in (await connection.exec_driver_sql(_HAVE_TRIGGERS)).scalars().all():
        with suppress(DBAPIError):
            await connection.exec_driver_sql(_REOPEN.format(table=table))
