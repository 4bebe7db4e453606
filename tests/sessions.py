"""The database as others of its clients see it: rows that somebody locks, and who is connected."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from tests.servers import past_the_pooler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# Those of the database that is asked.
BYLINES = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'byline'
"""

MIGRATORS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'byline-migrate'
"""

# Takes all credits away, past the trigger that keeps the ledger. One statement.
EMPTY_LEDGER = """
    DO $$ BEGIN
        IF EXISTS (SELECT FROM ledger) THEN
            ALTER TABLE ledger DISABLE TRIGGER keep_ledger;
            TRUNCATE ledger, open_holds RESTART IDENTITY;
            ALTER TABLE ledger ENABLE TRIGGER keep_ledger;
        END IF;
        UPDATE credit_accounts SET available = 0, held = 0 WHERE available <> 0 OR held <> 0;
    END $$
"""


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that is nobody else's."""
    connection = await asyncpg.connect(past_the_pooler(url).replace("+asyncpg", ""))
    try:
        yield connection
    finally:
        await connection.close()


def execute(url: str, script: str) -> None:
    """Runs a script, for tests outside the event loop."""

    async def run() -> None:
        async with connected(url) as connection:
            await connection.execute(script)

    asyncio.run(run())


def fetch(url: str, query: str) -> object:
    """Returns the one value that a query asks for, for tests outside the event loop."""

    async def run() -> object:
        async with connected(url) as connection:
            return await connection.fetchval(query)

    return asyncio.run(run())


async def migrators_of(connection: asyncpg.Connection) -> int:
    """How many migrators are connected to the database, at work or waiting for their turn."""
    found: int = await connection.fetchval(MIGRATORS)
    return found
