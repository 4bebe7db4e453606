"""Indexes that a later step builds on a table in use."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from storage.database import Database
from tests import factories
from tests.migrations.later import HEAD, Later, Step
from tests.processes import until
from tests.sessions import connected, migrators_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import asyncpg

INDEX = Step(
    'online.create_index("ix_users_name", "users", ["full_name", "id"])',
    'online.drop_index("ix_users_name", "users")',
)
UNIQUE_INDEX = Step('online.create_index("ix_users_name", "users", ["full_name"], unique=True)')

IS_WHOLE = """
    SELECT indisvalid AND indisready FROM pg_index
    WHERE indexrelid = to_regclass('ix_users_name')
"""
BUILDING = """
    SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
    AND query LIKE 'CREATE INDEX CONCURRENTLY%' AND wait_event_type = 'Lock')
"""
END_BUILD = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE 'CREATE INDEX CONCURRENTLY%'
"""


@pytest.fixture
async def admin(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with users in it."""
    db = Database(database_url)
    await factories.add_many_users(db, 1000)
    await db.close()
    async with connected(database_url) as connection:
        yield connection


@pytest.fixture
async def reader(admin: asyncpg.Connection, database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection whose transaction has seen the users, and may want to see them again."""
    del admin
    async with connected(database_url) as connection:
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await connection.execute("SELECT count(*) FROM users")
        yield connection


async def test_an_index_is_built_and_dropped(
    database_url: str, admin: asyncpg.Connection, tmp_path: Path
) -> None:
    later = Later(tmp_path, INDEX)
    assert (await later.migrate(database_url, "up")).status == 0
    assert await admin.fetchval(IS_WHOLE) is True
    assert (await later.migrate(database_url, "down")).status == 0
    assert await admin.fetchval(IS_WHOLE) is None


async def test_the_sql_that_is_printed_builds_it_again_too(
    database_url: str, admin: asyncpg.Connection, tmp_path: Path
) -> None:
    later = Later(tmp_path, INDEX)
    printed = await later.migrate(database_url, "sql", f"{HEAD}:head")
    assert printed.status == 0
    for statement in filter(str.strip, printed.said.split(";\n")):
        await admin.execute(statement)
    assert await admin.fetchval(IS_WHOLE) is True


async def test_a_build_holds_up_nobody_while_it_waits(
    database_url: str, reader: asyncpg.Connection, admin: asyncpg.Connection, tmp_path: Path
) -> None:
    building = Later(tmp_path, INDEX).start(database_url, "up")
    await until(lambda: admin.fetchval(BUILDING))
    await admin.execute("SET lock_timeout = '1s'")
    await admin.execute("UPDATE users SET full_name = 'Ada' WHERE id = (SELECT min(id) FROM users)")
    assert await admin.fetchval(IS_WHOLE) is False
    await reader.execute("ROLLBACK")
    assert (await building.ended())[0] == 0
    assert await admin.fetchval(IS_WHOLE) is True


async def test_a_build_does_not_wait_for_a_migrator_that_waits_for_it(
    database_url: str, reader: asyncpg.Connection, admin: asyncpg.Connection, tmp_path: Path
) -> None:
    """It waits first for those who write, and then for all who have come meanwhile."""
    await reader.execute("ROLLBACK; BEGIN; UPDATE users SET full_name = 'Ada'")
    later = Later(tmp_path, INDEX)
    building = later.start(database_url, "up")
    await until(lambda: admin.fetchval(BUILDING))
    waiting = later.start(database_url, "up")

    async def both_are_there() -> bool:
        return await migrators_of(admin) > 1

    await until(both_are_there)
    await reader.execute("ROLLBACK")
    ends = [await each.ended() for each in (building, waiting)]
    assert [status for status, _ in ends] == [0, 0], ends
    assert await admin.fetchval(IS_WHOLE) is True


async def test_a_build_whose_migrator_is_killed_is_completed_by_the_next(
    database_url: str, reader: asyncpg.Connection, admin: asyncpg.Connection, tmp_path: Path
) -> None:
    later = Later(tmp_path, INDEX)
    building = later.start(database_url, "up")
    await until(lambda: admin.fetchval(BUILDING))
    building.kill()
    await building.ended()
    # Its server goes on without it: the next has to wait for that one.
    following = asyncio.create_task(later.migrate(database_url, "up"))

    async def both_are_there() -> bool:
        return await migrators_of(admin) > 1

    await until(both_are_there)
    await reader.execute("ROLLBACK")
    assert (await following).status == 0
    assert await admin.fetchval(IS_WHOLE) is True


@pytest.mark.parametrize("moment", [4, 8, 12])
async def test_an_index_whose_migrator_is_killed_at_any_moment_is_completed_by_the_next(
    database_url: str, admin: asyncpg.Connection, tmp_path: Path, moment: int
) -> None:
    later = Later(tmp_path, INDEX)
    killed = later.start(database_url, "up", str(moment), module="tests.migrations.killed")
    status, said = await killed.ended()
    assert status == -signal.SIGKILL, said
    assert (await later.migrate(database_url, "up")).status == 0
    assert await admin.fetchval(IS_WHOLE) is True


async def test_half_an_index_is_built_again(
    database_url: str, reader: asyncpg.Connection, admin: asyncpg.Connection, tmp_path: Path
) -> None:
    later = Later(tmp_path, INDEX)
    building = later.start(database_url, "up")
    await until(lambda: admin.fetchval(BUILDING))
    await admin.execute(END_BUILD)
    assert (await building.ended())[0] == 1
    assert await admin.fetchval(IS_WHOLE) is False
    await reader.execute("ROLLBACK")
    assert (await later.migrate(database_url, "up")).status == 0
    assert await admin.fetchval(IS_WHOLE) is True


async def test_an_index_that_the_rows_do_not_allow_is_built_once_they_do(
    database_url: str, admin: asyncpg.Connection, tmp_path: Path
) -> None:
    later = Later(tmp_path, UNIQUE_INDEX)
    await admin.execute("UPDATE users SET full_name = 'Ada' WHERE id % 2 = 0")
    refused = await later.migrate(database_url, "up")
    assert refused.status == 1
    assert "could not create unique index" in refused.said
    assert await admin.fetchval(IS_WHOLE) is False
    await admin.execute("UPDATE users SET full_name = NULL")
    assert (await later.migrate(database_url, "up")).status == 0
    assert await admin.fetchval(IS_WHOLE) is True
