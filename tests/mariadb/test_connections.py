"""What MariaDB's connections are told, and what is sent on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from storage.dialects.rows import adding_missing
from storage.dialects.types import MYSQL_COLLATION
from storage.models import Tag
from tests.ways import way_into

if TYPE_CHECKING:
    from storage.database import Database
    from tests.conftest import Open

ONE = text("SELECT 1")
QUESTIONS = text("SHOW SESSION STATUS LIKE 'Questions'")


async def sent(db: Database) -> int:
    """How many statements the one connection of a pool has sent, this one too."""
    async with db.read() as read:
        return int((await read.execute(QUESTIONS)).one().Value)


@pytest.mark.parametrize(("way", "frames"), [("read", 0), ("snapshot", 3), ("transaction", 2)])
async def test_a_statement_is_sent_with_what_must_be_around_it(
    opened: Open, way: str, frames: int
) -> None:
    db = opened(size=1, overflow=0)
    before = await sent(db)
    async with way_into(db, way) as session:
        await session.execute(ONE)
    assert await sent(db) - before == 1 + frames + 1


async def test_rows_that_are_passed_over_are_neither_asked_after_nor_told_of(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    db = opened(size=1, overflow=0)
    costs: list[int] = []
    for name in ("private", "private", "else"):
        before = await sent(db)
        async with db.transaction() as tx:
            await tx.execute(adding_missing(Tag), {"name": name, "name_key": name})
        costs.append(await sent(db) - before)
    assert len(set(costs)) == 1
    assert "private" not in caplog.text


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("collation_connection", MYSQL_COLLATION),
        ("tx_isolation", "READ-COMMITTED"),
        ("time_zone", "+00:00"),
        ("max_statement_time", 90.5),
        ("innodb_lock_wait_timeout", 91),
        ("autocommit", 1),
    ],
)
async def test_every_connection_is_told_the_same(
    opened: Open, setting: str, value: str | float
) -> None:
    db = opened(statement_timeout=90.5, lock_timeout=90.5)
    async with db.read() as read:
        assert (await read.execute(text(f"SELECT @@{setting}"))).scalar_one() == value
