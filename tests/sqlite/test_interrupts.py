"""Statements that SQLite is told to stop before it has begun them."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from typing import TYPE_CHECKING

import pytest

from storage.dialects import sqlite
from storage.errors import StatementTimeout
from tests.processes import PATIENCE, until
from tests.storage.test_database import for_ever
from tests.storage.test_leaving import end, read_for_ever

if TYPE_CHECKING:
    from tests.conftest import Open


class Late:
    """What takes for ever, which SQLite begins when it has been told to stop it."""

    def __init__(self) -> None:
        self.is_asked_for, self._told, self.has_ended = (threading.Event() for _ in range(3))

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        execute = sqlite.Cursor.execute

        def interrupt(connection: sqlite.Connection) -> None:
            sqlite3.Connection.interrupt(connection)
            self._told.set()

        def execute_late(
            cursor: sqlite.Cursor, statement: str, values: object = ()
        ) -> sqlite.Cursor:
            if "RECURSIVE" not in statement:
                return execute(cursor, statement, values)
            self.is_asked_for.set()
            self._told.wait(PATIENCE)
            try:
                return execute(cursor, statement, values)
            finally:
                self.has_ended.set()

        patch.setattr(sqlite.Connection, "interrupt", interrupt, raising=False)
        patch.setattr(sqlite.Cursor, "execute", execute_late)


@pytest.fixture(autouse=True)
def late(monkeypatch: pytest.MonkeyPatch) -> Late:
    made = Late()
    made.patch(monkeypatch)
    return made


async def test_one_that_begins_after_its_time_is_stopped(opened: Open) -> None:
    db = opened(statement_timeout=0.05)
    with pytest.raises(StatementTimeout):
        async with asyncio.timeout(PATIENCE), db.read() as read:
            await for_ever(read)


async def test_one_that_begins_after_its_caller_left_is_stopped(opened: Open, late: Late) -> None:
    leaving = asyncio.ensure_future(read_for_ever(opened(statement_timeout=0), asyncio.Event()))
    await until(late.is_asked_for.is_set)
    await end(leaving)
    await until(late.has_ended.is_set)
