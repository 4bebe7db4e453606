"""What MariaDB's connections are told, and what is sent on them."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import QueuePool, literal, select, text

from storage import users
from storage.database import Database, PoolConfig
from storage.dialects.types import MYSQL_COLLATION
from storage.errors import StorageError
from storage.users import Filter
from tests import factories
from tests.emptying import empty

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from storage.database import Session

    Open = Callable[..., Database]

ONE = text("SELECT 1")
QUESTIONS = text("SHOW SESSION STATUS LIKE 'Questions'")


@pytest.fixture
async def opened(shared_url: str) -> AsyncIterator[Open]:
    """Opens the emptied database with a pool as the test wants it."""
    made: list[Database] = []
    await empty(shared_url)

    def open_(**config: Any) -> Database:  # noqa: ANN401 - any field of PoolConfig
        made.append(Database(shared_url, PoolConfig(**config)))
        return made[-1]

    yield open_
    for database in made:
        await database.close()


def checked_out(db: Database) -> int:
    """How many connections are on loan."""
    pool = db.engine.sync_engine.pool
    assert isinstance(pool, QueuePool)
    return pool.checkedout()


async def sent(db: Database) -> int:
    """How many statements the one connection of a pool has sent, this one too."""
    async with db.read() as read:
        return int((await read.execute(QUESTIONS)).one().Value)


@pytest.mark.parametrize(("way", "frames"), [("read", 0), ("snapshot", 3), ("transaction", 2)])
async def test_a_statement_is_sent_with_what_must_be_around_it(
    opened: Open, way: str, frames: int
) -> None:
    db = opened(size=1, overflow=0)
    ways: dict[str, AbstractAsyncContextManager[Session]] = {
        "transaction": db.transaction(),
        "read": db.read(),
        "snapshot": db.read(snapshot=True),
    }
    before = await sent(db)
    async with ways[way] as session:
        await session.execute(ONE)
    assert await sent(db) - before == 1 + frames + 1


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("collation_connection", MYSQL_COLLATION),
        ("tx_isolation", "READ-COMMITTED"),
        ("time_zone", "+00:00"),
        ("max_statement_time", 1.5),
        ("innodb_lock_wait_timeout", 2),
        ("autocommit", 1),
    ],
)
async def test_every_connection_is_told_the_same(
    opened: Open, setting: str, value: str | float
) -> None:
    db = opened(statement_timeout=1.5, lock_timeout=2)
    async with db.read() as read:
        assert (await read.execute(text(f"SELECT @@{setting}"))).scalar_one() == value


async def test_a_transaction_whose_block_raises_has_no_effect(opened: Open) -> None:
    db = opened(size=1, overflow=0)

    async def fail() -> None:
        async with db.transaction() as tx:
            await users.create(tx, factories.new_user())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with db.read() as read:
        assert await users.count(read, Filter()) == 0


async def test_the_statements_of_a_snapshot_agree_and_change_nothing(opened: Open) -> None:
    db = opened()
    async with db.read(snapshot=True) as read:
        assert await users.count(read, Filter()) == 0
        await factories.add_user(db)
        assert await users.count(read, Filter()) == 0
        with pytest.raises(StorageError):
            await read.execute(text("DELETE FROM users"))
    async with db.read() as read:
        assert await users.count(read, Filter()) == 1


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
