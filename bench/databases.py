"""The databases that are measured on: full of what `byline seed` makes, and kept between runs.

A run works on a copy of what is kept, so that each begins with the same.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

import migrations
from bench.measurement import MILLI, BenchError
from storage import embedded, seeding
from storage.database import Database, PoolConfig
from tests import engines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

KINDS = ("postgresql", "sqlite", "mariadb")
# Every pair of a quality and a subject, so that their names are known.
TAGS = [
    f"{quality} {subject.lower()}" for quality in seeding.QUALITIES for subject in seeding.SUBJECTS
]
# Servers keep theirs open at the same time.
CONNECTIONS = "200"
# What each user is granted: nobody runs out of it, however long it takes.
GRANTED = 10**9
# All users can give and be given to: transfers are refused to the inactive.
READY = (
    "UPDATE users SET is_active = true WHERE NOT is_active",
    f"""
    INSERT INTO ledger (kind, to_user_id, amount, memo)
    SELECT 'grant', user_id, {GRANTED}, '' FROM credit_accounts ORDER BY user_id
    """,  # noqa: S608 - a number of ours
    f"UPDATE credit_accounts SET available = {GRANTED}",  # noqa: S608 - a number of ours
)
GET = """
SELECT id, email, username, full_name, role, is_active, created_at, updated_at
FROM users WHERE id = $1
"""
# How often it is timed.
TIMES = 1_000
# As they are some time after they were filled. SQLite has no more to do than it does on closing.
SETTLE = {
    "postgresql": "VACUUM ANALYZE",
    "mariadb": "ANALYZE TABLE users, posts, post_tags, tags, credit_accounts, ledger",
    "sqlite": "SELECT 1",
}


class Sizes(NamedTuple):
    """How much there is."""

    users: int
    posts: int


class Running(NamedTuple):
    """A database that takes connections.

    Args:
        kind: of `KINDS`.
        url: where it is.
        pid: the process that began its others; None where it has none.
    """

    kind: str
    url: str
    pid: int | None = None


@contextmanager
def seeded(kind: str, cache: Path, folder: Path, sizes: Sizes) -> Iterator[Running]:
    """Runs a copy of a database full of data, which is made if it is not kept yet.

    Args:
        kind: of `KINDS`.
        cache: where databases are kept.
        folder: where the copy goes.
        sizes: how much there is.
    """
    kept = cache / f"{kind}-{sizes.users}-{sizes.posts}"
    if not kept.exists():
        making = kept.with_suffix(".making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        with _RUN[kind](making) as database:
            migrations.up(database.url)
            asyncio.run(_fill(database, sizes))
        making.rename(kept)
    copy = folder / kind
    # Owners and links are kept, and blocks shared where the file system can.
    subprocess.run(["cp", "-a", "--reflink=auto", kept, copy], check=True)  # noqa: S603, S607 - paths of ours
    with _RUN[kind](copy) as database:
        # What is kept may be of an earlier schema.
        migrations.up(database.url)
        yield database


async def _fill(database: Running, sizes: Sizes) -> None:
    db = Database(database.url, PoolConfig(statement_timeout=0))
    plan = seeding.Plan(sizes.users, sizes.posts, tags=len(TAGS), seed=1)
    await seeding.seed(db, plan, "!", lambda *_: None)
    async with db.transaction() as tx:
        for statement in READY:
            await tx.execute(text(statement))
    async with db.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text(SETTLE[database.kind]))
    await db.close()


async def statement_ms(database: Running) -> float:
    """Returns how long GetUser's statement takes by itself: by asyncpg, prepared, one at a time."""
    connection = await asyncpg.connect(database.url.replace("+asyncpg", ""))
    try:
        get = await connection.prepare(GET)
        took = []
        for user_id in range(1, TIMES):
            started = time.perf_counter()
            await get.fetchrow(user_id)
            took.append(time.perf_counter() - started)
    finally:
        await connection.close()
    return median(took) * MILLI


async def statements(database: Running) -> int | None:
    """Returns how many statements the database was sent; None where nobody counts them.

    Beginnings, commits and pings among them, but on MariaDB those that a driver sends by itself.
    """
    if database.kind == "postgresql":
        counted = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements"
        return int(await _on_postgresql(database, counted))
    if database.kind == "mariadb":
        engine = create_async_engine(database.url, poolclass=NullPool)
        async with engine.connect() as connection:
            row = (await connection.execute(text("SHOW GLOBAL STATUS LIKE 'Questions'"))).one()
        return int(row[1])
    return None


async def count_statements(database: Running, *, on: bool) -> None:
    """Has PostgreSQL count statements, which takes its time, or not; the others do as they do."""
    if database.kind == "postgresql":
        track = "top" if on else "none"
        await _on_postgresql(database, f"ALTER SYSTEM SET pg_stat_statements.track = {track}")
        await _on_postgresql(database, "SELECT pg_reload_conf()")


async def _on_postgresql(database: Running, statement: str) -> Any:  # noqa: ANN401 - whatever is asked
    """Runs a statement as the superuser, and returns the first value of its result."""
    superuser = database.url.replace("+asyncpg://byline@/byline", "://postgres@/postgres")
    connection = await asyncpg.connect(superuser)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


@contextmanager
def _postgresql(folder: Path) -> Iterator[Running]:
    settings = {
        "max_connections": CONNECTIONS,
        "shared_preload_libraries": "pg_stat_statements",
        "pg_stat_statements.track_utility": "on",
    }
    with embedded.running(folder, settings=settings) as endpoint:
        database = Running("postgresql", endpoint.url, endpoint.pid)
        asyncio.run(_on_postgresql(database, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements"))
        asyncio.run(count_statements(database, on=False))
        yield database


@contextmanager
def _sqlite(folder: Path) -> Iterator[Running]:
    yield Running("sqlite", f"sqlite+aiosqlite:///{folder / 'byline.db'}")


@contextmanager
def _mariadb(folder: Path) -> Iterator[Running]:
    settings = {"max-connections": CONNECTIONS, "skip-networking": "1"}
    if not engines.has_mariadb():
        raise BenchError(f"no MariaDB, which --server can leave out. {engines.HOW_TO_GET_MARIADB}")
    is_new = not (folder / "data").exists()
    with engines.mariadb_server(folder, settings) as (server, pid):
        url = make_url(server).set(database="byline").render_as_string(hide_password=False)
        if is_new:
            asyncio.run(_create(server))
        yield Running("mariadb", url, pid)


async def _create(server: str) -> None:
    engine = create_async_engine(server, poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.execute(text("CREATE DATABASE byline"))


_RUN: Mapping[str, Callable[[Path], AbstractContextManager[Running]]] = {
    "postgresql": _postgresql,
    "sqlite": _sqlite,
    "mariadb": _mariadb,
}
