"""How many rows PostgreSQL reads for what is asked of it, by its own count."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import text

from storage import authors, requests
from tests import factories
from tests.statements import run, sent_by

if TYPE_CHECKING:
    from storage.database import Database, Transaction

# Rows of posts that the open transaction has looked at by then.
FETCHED = """
    SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'posts'
"""
DAY = timedelta(days=1)


async def test_an_author_of_many_posts_does_not_make_it_read_them(db: Database) -> None:
    author = await factories.add_user(db)
    await factories.add_many_posts(db, author.id, 5000)
    await run(db, "ANALYZE posts")
    async with sent_by(db) as sent, db.read() as read:
        found = await authors.recent(read, [author.id])
    assert found.counts == {author.id: 5000}
    assert len(found.newest[author.id]) == authors.NEWEST
    async with db.transaction() as tx:
        read_before = await tx.execute(text(FETCHED))
        await authors.recent(tx, [author.id])
        fetched = (await tx.execute(text(FETCHED))).scalar_one() - read_before.scalar_one()
    assert fetched == authors.NEWEST
    assert len(sent.statements) == 2


async def test_a_purge_reads_no_more_than_it_removes(db: Database) -> None:
    async def scans(tx: Transaction) -> int:
        scanned = text("SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'requests'")
        return int((await tx.execute(scanned)).scalar_one())

    await factories.add_requests(db, 20_000, age=0 * DAY)
    await factories.add_requests(db, 10, age=2 * DAY)
    await run(db, "ANALYZE requests")
    async with db.transaction() as tx:
        before = await scans(tx)
        assert await requests.purge(tx, DAY) == 10
        assert await scans(tx) == before
