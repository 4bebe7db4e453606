"""What a transaction is told of its caller's deadline, and what that costs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from storage.database import Database, PoolConfig
from storage.usage import Usage, usage
from tests.roundtrips import counted

if TYPE_CHECKING:
    from pathlib import Path

TOLD = text("""
    SELECT name, setting::int FROM pg_settings WHERE name IN ('lock_timeout', 'statement_timeout')
""")


@pytest.mark.parametrize(
    ("seconds", "lock", "statement"),
    [
        (9000.0, (4_000_000, 4_000_000), (8_000_000, 8_000_000)),
        (5000.0, (4_000_000, 4_000_000), (1, 5_000_000)),
        (1000.0, (1, 999_900), (1, 1_000_000)),
    ],
)
async def test_a_transaction_is_told_the_closer_bound_in_the_round_trip_of_its_begin(
    database_url: str,
    tmp_path: Path,
    seconds: float,
    lock: tuple[int, int],
    statement: tuple[int, int],
) -> None:
    async with counted(database_url, tmp_path) as count:
        db = Database(
            count.url, PoolConfig(size=1, overflow=0, statement_timeout=8000, lock_timeout=4000)
        )
        async with db.transaction() as tx:
            await tx.execute(TOLD)
        before = count.round_trips
        token = usage.set(Usage(deadline=time.monotonic() + seconds))
        async with db.transaction() as tx:
            told = {row.name: row.setting for row in await tx.execute(TOLD)}
        usage.reset(token)
        # BEGIN, the statement, COMMIT.
        assert count.round_trips == before + 3
        async with db.read() as read:
            left = {row.name: row.setting for row in await read.execute(TOLD)}
        await db.close()
    assert lock[0] <= told["lock_timeout"] <= lock[1]
    assert statement[0] <= told["statement_timeout"] <= statement[1]
    assert left == {"lock_timeout": 4_000_000, "statement_timeout": 8_000_000}
