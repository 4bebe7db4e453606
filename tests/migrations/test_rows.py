"""What callers have written outlives every step, up and down, that leaves a place for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sqlalchemy import MetaData, func, select
from sqlalchemy.ext.asyncio import create_async_engine

import migrations
from migrations import State
from storage.models import Base
from tests.migrations.kinds import KINDS, Kept, kinds_at

ENGINES = ("postgresql", "sqlite", "mariadb")

if TYPE_CHECKING:
    from tests.clients import Client
    from tests.conftest import Serve

# The functions of `migrations` start an event loop of their own: tests run them in a thread.
run = asyncio.to_thread


class Callers:
    """Callers who write what there is a place for, and look at all that they have written.

    Args:
        client: of the server that they call.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._kept: list[tuple[str, Kept]] = []

    async def look(self, revision: str) -> None:
        """Finds all as it was, but for what the revision has no place for."""
        self._kept = [(since, kept) for since, kept in self._kept if since <= revision]
        for _, kept in self._kept:
            assert await kept.see() == kept.seen

    async def write(self, revision: str) -> None:
        """Writes one of each kind."""
        for kind in kinds_at(revision):
            self._kept.append((KINDS[kind], await kind(self._client)))


async def test_rows_outlive_every_step_up_and_down(engine_url: str, serve: Serve) -> None:
    revisions = [name for name, _ in (await run(migrations.status, engine_url)).pending]
    async with serve(engine_url) as client:
        callers = Callers(client)
        for revision in revisions:
            await run(migrations.up, engine_url, revision)
            await callers.look(revision)
            await callers.write(revision)
            assert await empty_tables(engine_url) == set()
        await run(migrations.check, engine_url)
        for revision in reversed(revisions[:-1]):
            await run(migrations.down, engine_url)
            assert (await run(migrations.status, engine_url)).current == revision
            await callers.look(revision)
            await callers.write(revision)
            assert await empty_tables(engine_url) == set()
        for revision in revisions[1:]:
            await run(migrations.up, engine_url, revision)
            await callers.look(revision)
            await callers.write(revision)
        await callers.look(revisions[-1])
    await run(migrations.check, engine_url)
    made = await tables(engine_url)
    # SQLite's search indexes are tables.
    named = {name for name in made if not name.startswith("ix_")}
    assert named == {*Base.metadata.tables, "alembic_version"}
    await run(migrations.down, engine_url, "base")
    assert await tables(engine_url) == {"alembic_version"}
    assert (await run(migrations.status, engine_url)).state is State.BEHIND


async def tables(url: str) -> set[str]:
    """The names of the tables that there are."""
    return set((await _reflected(url)).tables)


async def empty_tables(url: str) -> set[str]:
    """The names of the tables that have no rows."""
    found = await _reflected(url)
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        counts = {
            name: await connection.scalar(select(func.count()).select_from(table))
            for name, table in found.tables.items()
        }
    await engine.dispose()
    return {name for name, count in counts.items() if not count}


async def _reflected(url: str) -> MetaData:
    found = MetaData()
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        await connection.run_sync(found.reflect)
    await engine.dispose()
    return found
