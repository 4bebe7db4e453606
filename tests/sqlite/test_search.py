"""SQLite's search indexes: which searches use them, and that they agree with the tables."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

import migrations
from migrations import MigrationError
from storage import posts, users
from storage.database import Database
from storage.dialects import search, sqlite
from storage.errors import StorageError
from storage.keyset import Cursor, Order, Value, Window
from tests import factories
from tests.paging import orders
from tests.statements import run, sent_by

if TYPE_CHECKING:
    from tests.statements import Statement

INDEXES = ("ix_users_search", "ix_posts_search")
# None of the posts has as many.
COMMON = 5


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_COMMON", COMMON)


async def plan_of(db: Database, statement: Statement) -> str:
    """How SQLite runs a statement, step by step."""
    async with db.engine.connect() as connection:
        explain = f"EXPLAIN QUERY PLAN {statement.text}"
        return "\n".join(
            row.detail for row in await connection.exec_driver_sql(explain, statement.values)
        )


async def searched(db: Database, query: str, window: Window) -> list[str]:
    """How a search of posts is run, statement by statement."""
    async with sent_by(db) as sent, db.read() as read:
        await posts.list_page(read, posts.Filter(query=query), window)
    return [await plan_of(db, each) for each in sent.statements]


@pytest.mark.parametrize("after", [False, True], ids=["first page", "next page"])
@pytest.mark.parametrize("order", orders("id", "created_at", "title"), ids=str)
async def test_a_rare_text_is_looked_up_whatever_the_order(
    db: Database, order: Order, *, after: bool
) -> None:
    post = await factories.add_post(db, title="A rare title")
    values: dict[str, Value] = {"id": post.id, "created_at": post.created_at, "title": "a"}
    cursor = Cursor(values[order.field], post.id) if after else None
    rarity, page = await searched(db, "rare", Window(order, cursor, 50))
    assert "ix_posts_search VIRTUAL TABLE" in rarity
    assert "ix_posts_search VIRTUAL TABLE" in page
    assert "SEARCH posts USING INTEGER PRIMARY KEY (rowid=?)" in page
    assert "SCAN posts" not in page


@pytest.mark.parametrize("order", orders("id", "created_at", "title"), ids=str)
async def test_a_common_text_is_come_by_in_the_order_of_the_list(
    db: Database, order: Order
) -> None:
    author = await factories.add_user(db)
    for _ in range(COMMON + 1):
        await factories.add_post(db, author_id=author.id, title="A common title")
    rarity, page = await searched(db, "common", Window(order, None, 50))
    assert "ix_posts_search VIRTUAL TABLE" in rarity
    assert "ix_posts_search" not in page
    assert "SCAN posts" in page
    assert "TEMP B-TREE" not in page


@pytest.mark.parametrize("query", ["r", "ra", "🦉🦉", "rar\0"])
async def test_a_text_that_the_index_cannot_tell_of_is_not_asked_for_there(
    db: Database, query: str
) -> None:
    (page,) = await searched(db, query, Window(Order("id"), None, 50))
    assert "ix_posts_search" not in page


async def test_the_indexes_agree_with_the_tables(db: Database) -> None:
    made = [await factories.add_post(db, title=f"Title {number}") for number in range(4)]
    async with db.transaction() as tx:
        await posts.update(tx, made[0].id, {"title": "Another"})
        await posts.update(tx, made[1].id, {"content": "Another"})
        await posts.delete(tx, made[1].id)
        await users.update(tx, made[2].author_id, {"email": "another", "role": "admin"})
        await users.delete(tx, made[3].author_id)
    for index in INDEXES:
        # Raises where they do not.
        await run(db, f"INSERT INTO {index} ({index}, rank) VALUES ('integrity-check', 1)")


async def test_a_change_of_something_else_leaves_the_index_alone(db: Database) -> None:
    user = await factories.add_user(db)
    size = text("SELECT total(length(block)) FROM ix_users_search_data")
    async with db.transaction() as tx:
        before = (await tx.execute(size)).scalar_one()
    async with db.transaction() as tx:
        await users.update(tx, user.id, {"full_name": "Ada", "username": user.username.upper()})
    async with db.transaction() as tx:
        assert (await tx.execute(size)).scalar_one() == before


async def test_a_sqlite_without_fts5_is_said_to_be_so(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "SEARCH_MODULE", "fts_of_another_build")
    for change in (migrations.up, migrations.status):
        with pytest.raises(MigrationError, match=r"SQLite of this Python .* without FTS5"):
            await asyncio.to_thread(change, empty_url)
    database = Database(empty_url)
    with pytest.raises(StorageError):
        async with database.read():
            pass
    await database.close()
