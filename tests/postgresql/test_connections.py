"""What PostgreSQL's connections are told, and what is sent on them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url, text

from storage import users
from storage.database import Database, unit
from storage.errors import DatabaseDown
from storage.users import Filter
from tests import factories
from tests.sessions import connected
from tests.statements import sent_by

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from storage.database import Transaction
    from tests.conftest import Open

ONE = text("SELECT 1")


async def begin(tx: Transaction) -> None:
    await users.create(tx, factories.new_user())


async def count_of(db: Database) -> int:
    async with db.read() as read:
        return await users.count(read, Filter())


@asynccontextmanager
async def without_connections(
    cluster: str, url: str, how: str = "CONNECTION LIMIT 0"
) -> AsyncIterator[None]:
    """Ends every connection to a database, and lets nobody connect while the block lasts."""
    name = make_url(url).database
    async with connected(cluster) as admin:
        await admin.execute(f"ALTER DATABASE {name} {how}")
        try:
            await admin.fetch(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = $1",
                name,
            )
            yield
        finally:
            await admin.execute(f"ALTER DATABASE {name} CONNECTION LIMIT -1")
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


async def test_a_transaction_sends_its_statements_and_two_frames(db: Database) -> None:
    async with sent_by(db) as sent, db.transaction() as tx:
        await tx.execute(ONE)
        await tx.execute(ONE)
    assert [statement.text for statement in sent.statements] == ["SELECT 1"] * 2
    assert sent.frames == ["BEGIN;", "COMMIT;"]


async def test_a_transaction_without_statements_sends_nothing(db: Database) -> None:
    async with sent_by(db) as sent, db.transaction():
        pass
    assert (sent.statements, sent.frames) == ([], [])


async def test_a_unit_that_opens_no_transaction_sends_nothing(db: Database) -> None:
    async with sent_by(db) as sent, unit(begin) as whole:
        assert whole.is_untouched
    assert (sent.statements, sent.frames) == ([], [])


async def test_a_read_is_one_statement_and_nothing_around_it(db: Database) -> None:
    async with sent_by(db) as sent, db.read() as read:
        await read.execute(ONE)
    assert ([statement.text for statement in sent.statements], sent.frames) == (["SELECT 1"], [])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("statement_timeout", "90500ms"),
        ("lock_timeout", "80500ms"),
        ("idle_in_transaction_session_timeout", "90500ms"),
        ("application_name", "byline"),
        ("timezone", "UTC"),
        ("jit", "off"),
    ],
)
async def test_every_connection_is_told_the_same(opened: Open, setting: str, value: str) -> None:
    db = opened(statement_timeout=90.5, lock_timeout=80.5)
    async with db.read() as read:
        assert (await read.execute(text(f"SHOW {setting}"))).scalar_one() == value


@pytest.mark.parametrize("how", ["CONNECTION LIMIT 0", "ALLOW_CONNECTIONS false"])
async def test_a_server_that_refuses_a_connection_is_down(
    cluster: str, database_url: str, how: str
) -> None:
    db = Database(database_url)
    async with without_connections(cluster, database_url, how):
        with pytest.raises(DatabaseDown):
            await count_of(db)
    assert await count_of(db) == 0
    await db.close()


async def test_the_transactions_of_a_unit_are_one(db: Database) -> None:
    async with sent_by(db) as sent, unit(begin):
        await factories.add_user(db)
        await factories.add_user(db)
    assert sent.frames == ["BEGIN;", "COMMIT;"]


async def test_a_read_after_a_snapshot_and_a_transaction_has_nothing_around_it(
    opened: Open,
) -> None:
    db = opened(size=1, overflow=0)
    await factories.add_user(db)
    async with db.read(snapshot=True) as read:
        await users.count(read, Filter())
    async with sent_by(db) as sent:
        await count_of(db)
    assert sent.frames == []
