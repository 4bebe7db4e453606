"""Callers who leave: what they were at stops, and nothing of theirs is left."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import literal, select, text

from storage import users
from storage.dialects import mysql
from storage.users import Key
from tests import factories
from tests.onlookers import checked_out
from tests.processes import until

if TYPE_CHECKING:
    from storage.database import Database
    from storage.sessions import Session
    from storage.users import UserRow
    from tests.conftest import Open

FOR_EVER = {
    "postgresql": "SELECT pg_sleep(3600)",
    # SLEEP() looks after its client now and then, which no other statement does.
    "mysql": "SELECT BENCHMARK(1000000000000, SHA2('x', 512))",
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT count(*) FROM n",
}
# How many statements that take for ever a database is at. SQLite is in the process, and a caller of
# its comes back when the statement has ended.
RUNNING = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event = 'PgSleep'",
    "mysql": "SELECT COUNT(*) FROM information_schema.processlist"
    " WHERE db = DATABASE() AND id <> CONNECTION_ID() AND info LIKE '%BENCHMARK%'",
    "sqlite": "SELECT 0",
}


async def run_for_ever(session: Session, begun: asyncio.Event) -> None:
    begun.set()
    await session.execute(text(FOR_EVER[session.dialect]))


async def read_for_ever(db: Database, begun: asyncio.Event) -> None:
    async with db.read() as read:
        await run_for_ever(read, begun)


async def write_for_ever(db: Database, user: UserRow, begun: asyncio.Event) -> None:
    async with db.transaction() as tx:
        await users.update(tx, user.id, {"full_name": "Bob"})
        await run_for_ever(tx, begun)


async def running(db: Database) -> int:
    """How many statements that take for ever the database is at."""
    async with db.read() as read:
        count: int = (await read.execute(text(RUNNING[read.dialect]))).scalar_one()
        return count


async def until_running(db: Database, count: int) -> None:
    async def holds() -> bool:
        return db.engine.dialect.name == "sqlite" or await running(db) == count

    await until(holds)


async def end(task: asyncio.Task[Any]) -> None:
    """Cancels a task and waits for its end, which must be that."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_read_stops_at_the_database_when_its_caller_leaves(opened: Open) -> None:
    db = opened(statement_timeout=0)
    begun = asyncio.Event()
    task = asyncio.ensure_future(read_for_ever(db, begun))
    await begun.wait()
    await until_running(db, 1)
    await end(task)
    await until_running(db, 0)


async def test_closing_waits_until_what_callers_left_has_stopped(opened: Open) -> None:
    db, other = opened(statement_timeout=0), opened()
    begun = asyncio.Event()
    tasks = [asyncio.ensure_future(read_for_ever(db, begun)) for _ in range(3)]
    await begun.wait()
    await until_running(other, 3)
    for task in tasks:
        await end(task)
    await db.close()
    await until_running(other, 0)


async def test_what_a_caller_who_leaves_had_locked_is_free(opened: Open) -> None:
    """Who waits for it would otherwise fail by `LockTimeout`."""
    db = opened(statement_timeout=0, lock_timeout=5)
    user = await factories.add_user(db)
    begun = asyncio.Event()
    task = asyncio.ensure_future(write_for_ever(db, user, begun))
    await begun.wait()
    await until_running(db, 1)
    await end(task)
    async with db.transaction() as tx:
        await users.update(tx, user.id, {"full_name": "Ada"})
    async with db.read() as read:
        assert (await users.get(read, Key("id", user.id))).full_name == "Ada"


async def test_whenever_callers_leave_the_rest_get_their_own_rows_and_nothing_is_left_open(
    opened: Open,
) -> None:
    """Each leaves one step of the event loop later than the one before, on connections old and new.

    What is left to the garbage collector warns when it is collected, and warnings are errors.
    """
    db = opened(size=4, overflow=2)
    user = await factories.add_user(db)
    asked = 0

    async def ask(session: Session) -> None:
        nonlocal asked
        asked += 1
        mine = asked
        assert (await session.execute(select(literal(mine)))).scalar_one() == mine

    async def write() -> None:
        async with db.transaction() as tx:
            await users.update(tx, user.id, {"full_name": "Ada"})
            await ask(tx)

    async def read(*, snapshot: bool) -> None:
        async with db.read(snapshot=snapshot) as session:
            await ask(session)
            await ask(session)

    for steps in range(80):
        if steps % 20 == 0:
            db = opened(size=4, overflow=2)
        tasks = [
            asyncio.ensure_future(call)
            for call in (write(), read(snapshot=False), read(snapshot=True), read(snapshot=False))
        ]
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {asyncio.CancelledError, type(None)}
        assert checked_out(db) == 0
        await read(snapshot=False)
    gc.collect()


@pytest.mark.parametrize("fails", [False, True])
async def test_whoever_leaves_while_mariadb_is_reached_has_left_though_its_driver_goes_on(
    monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    begun = asyncio.Event()

    async def go_on(_: mysql.Connection) -> None:
        begun.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        if fails:
            raise ConnectionResetError

    monkeypatch.setattr(mysql.Connection, "connect", go_on)
    reaching = asyncio.ensure_future(mysql.connect(connect_timeout=60))
    await begun.wait()
    reaching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reaching
