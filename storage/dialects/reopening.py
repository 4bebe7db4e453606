"""What becomes of a table that MariaDB was stopped at opening: it is opened anew.

MariaDB reads a table's triggers as it opens it, and keeps it open for whoever comes next. A
statement that is stopped meanwhile, by KILL or by max_statement_time, leaves the table open with a
trigger that is cut short, and every write to it fails from then on. To open it anew, FLUSH TABLES
takes a privilege on the whole server, and ALTER TABLE one that whoever migrates has.
"""

from __future__ import annotations

import logging
import re
from time import monotonic
from typing import TYPE_CHECKING

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from storage.dialects.errors import is_of_a_broken_trigger

if TYPE_CHECKING:
    from sqlalchemy.engine import ExceptionContext
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from storage.dialects.errands import Errands

# Those on which the account may have triggers.
_HAVE_TRIGGERS = """
    SELECT DISTINCT event_object_table FROM information_schema.triggers
    WHERE trigger_schema = DATABASE()
"""
# InnoDB's indexes cannot be turned off, so that nothing is done but to open the table anew, which
# takes that nobody is within a transaction on it. Others wait behind, for a second at most.
_REOPEN = "SET STATEMENT sql_notes = 0, lock_wait_timeout = 1 FOR ALTER TABLE {table} ENABLE KEYS"
# Seconds until it is tried again where it could not be done, so that others do not wait all along.
REST = 10.0

log = logging.getLogger(__name__)


def reopen_what_is_broken(engine: AsyncEngine, errands: Errands) -> None:
    """Has tables opened anew when a write finds a trigger broken.

    Args:
        engine: whose writes.
        errands: to the same database.
    """
    if engine.dialect.name == "mysql":
        event.listen(engine.sync_engine, "handle_error", _Reopener(errands).look_at)


class _Reopener:
    """Opens the tables anew that failed writes name: the error does not say which it is."""

    def __init__(self, errands: Errands) -> None:
        self._errands = errands
        # Of the statements that failed.
        self._words: set[str] = set()
        self._rests_until = 0.0

    def look_at(self, error: ExceptionContext) -> None:
        """Has the tables opened soon that the statement names, if a trigger was broken."""
        if is_of_a_broken_trigger(error.original_exception) and monotonic() >= self._rests_until:
            self._words.update(re.findall(r"\w+", error.statement or ""))
            self._errands.begin(self._reopen)

    async def _reopen(self, connection: AsyncConnection) -> None:
        """Opens them, and those that are named meanwhile, or says which could not be."""
        tables = set((await connection.exec_driver_sql(_HAVE_TRIGGERS)).scalars())
        is_reopened: dict[str, bool] = {}
        while named := self._words & tables - is_reopened.keys():
            table = named.pop()
            is_reopened[table] = await _is_reopened(connection, table)
        self._words.clear()
        failed = sorted(table for table, done in is_reopened.items() if not done)
        if failed or not is_reopened:
            self._rests_until = monotonic() + REST
            told = ", ".join(failed) or "unknown"
            log.warning("a trigger of a table is cut short; FLUSH TABLES mends it: %s", told)


async def _is_reopened(connection: AsyncConnection, table: str) -> bool:
    try:
        await connection.exec_driver_sql(_REOPEN.format(table=table))
    except DBAPIError:
        return False
    return True
