"""The database as others of its clients see it: rows that somebody locks, and who is connected."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from tests.processes import until
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


@asynccontextmanager
async def locked_user(url: str, user_id: int) -> AsyncIterator[None]:
    """Holds the lock on a user's row while the block lasts."""
    async with connected(url) as connection, connection.transaction():
        await connection.execute("SELECT FROM users WHERE id = $1 FOR UPDATE", user_id)
        yield


@asynccontextmanager
async def slow_commits(url: str) -> AsyncIterator[None]:
    """Holds up commits that add a user: each waits for a lock that the block holds."""
    async with connected(url) as admin:
        await admin.execute(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END';"
            "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION wait()"
        )
        await admin.execute("SELECT pg_advisory_lock(1)")
        try:
            yield
        finally:
            await admin.execute("SELECT pg_advisory_unlock_all()")
            await admin.execute("DROP FUNCTION wait CASCADE")


async def end_connections(url: str) -> None:
    """Ends every connection of Bylines to the database, as a restart of the server does."""
    async with connected(url) as admin:
        # Waits for their ends, ten seconds each at most.
        await admin.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'byline'"
        )


async def until_waiting_for_a_lock(url: str, *, callers: int = 1) -> None:
    """Waits until so many callers of Bylines wait for locks that somebody else holds."""
    async with connected(url) as connection:
        waiting = f"{BYLINES} AND wait_event_type = 'Lock'"

        async def holds() -> bool:
            found: int = await connection.fetchval(waiting)
            return found >= callers

        await until(holds)


async def until_gone(url: str) -> None:
    """Waits until no Byline is connected, within a transaction or without."""
    async with connected(url) as connection:

        async def holds() -> bool:
            return not await connection.fetchval(BYLINES)

        await until(holds)


async def migrators_of(connection: asyncpg.Connection) -> int:
    """How many migrators are connected to the database, at work or waiting for their turn."""
    found: int = await connection.fetchval(MIGRATORS)
    return found
