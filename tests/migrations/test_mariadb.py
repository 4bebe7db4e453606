"""What MariaDB is left with when a migrator is killed, and how migrators wait there."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

import migrations
from migrations import MigrationError, State
from migrations.revisions import preceding
from storage.dialects.migrating import LOCK
from tests.migrations.callers import load
from tests.migrations.killed import killed
from tests.migrations.later import HEAD, Later, Step
from tests.migrations.schemas import seen
from tests.processes import Running, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncConnection

    from tests.conftest import Serve

ENGINES = ("mariadb",)
run = asyncio.to_thread
COLUMN = Step('op.add_column("users", sa.Column("pronouns", sa.Text()))')
MIGRATE = "import sys, migrations; migrations.up(sys.argv[1])"
TURN = f"CONCAT('{LOCK:x}.', DATABASE())"
# Of the database's processes, the one that asks among them.
CONNECTED = "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE()"
WAITS = f"{CONNECTED} AND state = 'Waiting for table metadata lock' AND info LIKE 'ALTER TABLE%'"


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[AsyncConnection]:
    """A connection that is nobody else's."""
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.connect() as connection:
        yield connection
    await engine.dispose()


async def leave_half(action: str, url: str, goal: str) -> None:
    """Has a migrator killed as soon as it has made or dropped a table."""
    tables = (await seen(url)).rows.keys()
    for moment in count(1):
        assert await killed(moment, action, url, goal)
        if (await seen(url)).rows.keys() != tables:
            return


async def test_half_a_step_is_in_nobodys_way_and_has_to_be_completed_before_it_is_taken_back(
    empty_url: str, serve: Serve
) -> None:
    before = preceding(HEAD)
    await run(migrations.up, empty_url, before)
    await leave_half("up", empty_url, HEAD)
    async with serve(empty_url) as client, load(client, before):
        pass
    status = await run(migrations.status, empty_url)
    assert (status.state, status.current) == (State.BEHIND, before)
    with pytest.raises(MigrationError, match=f"`byline migrate up {HEAD}`"):
        await run(migrations.down, empty_url)
    await run(migrations.up, empty_url)
    await run(migrations.down, empty_url)
    assert (await run(migrations.status, empty_url)).current == before


async def test_half_a_step_down_is_not_served_and_has_to_be_completed_before_one_up(
    empty_url: str,
) -> None:
    before = preceding(HEAD)
    await run(migrations.up, empty_url)
    await leave_half("down", empty_url, before)
    status = await run(migrations.status, empty_url)
    assert (status.state, status.current) == (State.HALFWAY, HEAD)
    with pytest.raises(MigrationError, match=f"`byline migrate down {before}`"):
        await run(migrations.up, empty_url)
    await run(migrations.down, empty_url)
    status = await run(migrations.status, empty_url)
    assert (status.state, status.current) == (State.BEHIND, before)
    await run(migrations.up, empty_url)
    await run(migrations.check, empty_url)


async def test_a_step_lets_callers_pass_who_wait_behind_it(
    database_url: str, tmp_path: Path, serve: Serve
) -> None:
    """The one who has seen the table keeps it for longer than a step waits at once."""
    later = Later(tmp_path, COLUMN)
    async with (
        serve(database_url) as client,
        connected(database_url) as reader,
        connected(database_url) as watcher,
        load(client, HEAD) as callers,
    ):
        await reader.execute(text("SELECT count(*) FROM users"))
        migrating = asyncio.create_task(later.complete(database_url))

        async def waits() -> bool:
            return bool(await watcher.scalar(text(WAITS)))

        for _ in range(2):
            await until(waits)
            await callers.get_on()
        assert not migrating.done()
        await reader.rollback()
        ended = await migrating
        assert ended.status == 0, ended.said
    assert (await run(migrations.status, database_url)).current == later.head


async def test_a_table_that_is_in_use_each_time_ends_the_migration_and_leaves_the_schema(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "LOCK_PAUSE", 0)
    monkeypatch.setattr(migrations, "LOCK_ATTEMPTS", 2)
    before = await run(migrations.status, database_url)
    async with connected(database_url) as reader:
        await reader.execute(text("SELECT count(*) FROM alembic_version"))
        with pytest.raises(MigrationError, match="Lock wait timeout"):
            await run(migrations.down, database_url)
    assert await run(migrations.status, database_url) == before


async def test_migrators_wait_for_the_one_before_them(empty_url: str) -> None:
    async with connected(empty_url) as other:
        assert await other.scalar(text(f"SELECT GET_LOCK({TURN}, 0)")) == 1
        migrators = [Running(sys.executable, "-c", MIGRATE, empty_url) for _ in range(2)]

        async def both_wait() -> bool:
            found: int = await other.scalar(text(CONNECTED)) or 0
            return found == 1 + len(migrators)

        await until(both_wait)
        assert (await seen(empty_url)).rows == {}
        await other.execute(text(f"SELECT RELEASE_LOCK({TURN})"))
        assert [await each.ended() for each in migrators] == [(0, ""), (0, "")]
    await run(migrations.check, empty_url)
