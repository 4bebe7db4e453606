"""What tests of PostgreSQL itself stand on: large tables, and a connection that explains."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

import migrations
from storage.database import Database, PoolConfig
from tests.sessions import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

POPULATED = Path(__file__).with_name("populated.sql")
# One connection, so that what it has prepared is known; nothing is too slow on a busy machine.
ALONE = PoolConfig(size=1, overflow=0, statement_timeout=0, lock_timeout=0)


@pytest.fixture(scope="session")
async def populated_url(cluster: str) -> str:
    """The URL of large tables, which the first who asks makes for all parallel workers."""
    url = make_url(cluster)
    async with connected(cluster) as admin:
        await admin.execute("SELECT pg_advisory_lock(hashtext('populated'))")
        if not await admin.fetchval("SELECT 1 FROM pg_database WHERE datname = 'populated'"):
            await admin.execute("CREATE DATABASE populating")
            making = url.set(database="populating").render_as_string(hide_password=False)
            await asyncio.to_thread(migrations.up, making)
            async with connected(making) as filler:
                # Until a commit is written down, VACUUM takes no row of it to be visible to all.
                await filler.execute("SET synchronous_commit = on")
                await filler.execute(POPULATED.read_text())
                # A sample of all rows: plans must not depend on which were drawn.
                await filler.execute("SET default_statistics_target = 2500")
                await filler.execute("VACUUM (ANALYZE)")
            await admin.execute("ALTER DATABASE populating RENAME TO populated")
    return url.set(database="populated").render_as_string(hide_password=False)


@pytest.fixture(scope="session")
async def populated(populated_url: str) -> AsyncIterator[Database]:
    """The large tables. Nothing may be changed in them for good."""
    database = Database(populated_url, ALONE)
    yield database
    await database.close()


@pytest.fixture
async def fresh(populated_url: str) -> AsyncIterator[Database]:
    """The large tables, by a connection that has prepared nothing yet."""
    database = Database(populated_url, ALONE)
    yield database
    await database.close()


@pytest.fixture(scope="session")
async def planner(populated_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that explains."""
    async with connected(populated_url) as connection:
        await connection.execute("SET jit = off; SET timezone = 'UTC'")
        yield connection
