"""Measures searches, rare and common, and the counts of what they find.

On one server of each kind, as `tests/engines.py` starts them, full of what `byline seed` makes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from storage import posts, seeding, users
from storage.database import Database, PoolConfig
from storage.keyset import Order, Window
from tests import engines

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tests.engines import Engine

MILLI = 1e3
NEWEST = Window(Order("created_at", descending=True), None, 50)
QUERIES: dict[str, tuple[Any, dict[str, str]]] = {
    "users": (
        users,
        {
            "rare": "lovelace.1.77",
            "rare, by digits": ".1.3141",
            "rare, by what most have too": ".1.3141@example.com",
            "common": "example",
            "none": "xyzzy",
            "2 characters, none": "qq",
        },
    ),
    "posts": (
        posts,
        {
            "rare": "formal ferment",
            "common": "consensus",
            "none": "xyzzy",
            "2 characters": "qu",
            "2 characters, none": "qq",
        },
    ),
}
# As they are some time after they were filled.
SETTLED = {
    "postgresql": "VACUUM ANALYZE",
    "mariadb": "ANALYZE TABLE users, posts",
    "sqlite": "PRAGMA wal_checkpoint(TRUNCATE)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints milliseconds, and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.search", description=main.__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="of users and of posts [100000]")
    parser.add_argument("--times", type=int, default=15, help="each search is made [15]")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        for server in engines.all_of(Path(folder), "postgresql-18"):
            with server as engine:
                asyncio.run(_measure(engine, options))
    return 0


async def _measure(engine: Engine, options: argparse.Namespace) -> None:
    db = Database(await engine.create("search", migrated=True), PoolConfig(statement_timeout=0))
    plan = seeding.Plan(users=options.rows, posts=options.rows, tags=500, seed=1)
    await seeding.seed(db, plan, "!", lambda *_: None)
    await _run(db, SETTLED[engine.name])
    for noun, (storage, queries) in QUERIES.items():
        for kind, query in queries.items():
            where = storage.Filter(query=query)
            page, count = partial(storage.list_page, where=where, window=NEWEST), storage.count
            async with db.read() as read:
                found = await count(read, where)
                listed = await _median(partial(page, read), options.times)
                counted = await _median(partial(count, read, where), options.times)
            print(f"{engine.name} {noun} {kind}: {found} found, {listed:.1f}, count {counted:.1f}")
    await db.close()


async def _median(call: Callable[[], Awaitable[object]], times: int) -> float:
    """Returns milliseconds, after one call more that warms up."""
    took = []
    for _ in range(times + 1):
        start = time.perf_counter()
        await call()
        took.append(time.perf_counter() - start)
    return median(took[1:]) * MILLI


async def _run(db: Database, statement: str) -> None:
    autocommit = db.engine.execution_options(isolation_level="AUTOCOMMIT")
    async with autocommit.connect() as connection:
        await connection.execute(text(statement))


if __name__ == "__main__":
    sys.exit(main())
