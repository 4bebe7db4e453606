"""How Alembic reaches the database: asynchronously, one migrator at a time."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from alembic import context
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from migrations import MIGRATION_LOCK
from storage import poolers
from storage.models import Base

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

# Seconds between two looks at whether the migrator before is done.
TURN_POLL = 0.2


def settings() -> dict[str, str]:
    """Says how long a step waits for a table before it gives up, and for what else it does not."""
    return {
        "lock_timeout": f"{context.config.attributes['lock_timeout']}s",
        # A role's own limit is meant for callers: with it, a long step would never be done.
        "statement_timeout": "0",
        # What a migrator holds whose machine is gone, others wait for no longer than this.
        "idle_in_transaction_session_timeout": "60s",
    }


def run_offline() -> None:
    """Writes the SQL instead of running it."""
    context.configure(
        dialect_name=make_url(context.config.attributes["url"]).get_backend_name(),
        target_metadata=Base.metadata,
        literal_binds=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        for name, value in settings().items():
            context.execute(f"SET {name} = '{value}'")
        context.run_migrations()


def run_online(connection: Connection) -> None:
    """Runs the migrations, or says what revision the database is at."""
    attributes = context.config.attributes
    if "report_revision" in attributes:
        context.configure(connection=connection)
        attributes["report_revision"](context.get_context().get_current_revision())
        return
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        transaction_per_migration=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def connect_and_run() -> None:
    """Opens the one connection that the migrations use, and closes it."""
    engine = create_async_engine(context.config.attributes["url"], poolclass=NullPool)
    poolers.introduce(engine, {**settings(), "application_name": "byline-migrate"})
    try:
        async with engine.connect() as connection, turn(engine, connection):
            await connection.run_sync(run_online)
    finally:
        await engine.dispose()


@asynccontextmanager
async def turn(engine: AsyncEngine, connection: AsyncConnection) -> AsyncIterator[None]:
    """Waits until no other migrator is at work, however long that takes, and keeps others waiting.

    It asks again and again: one that waited within a statement would have an index that the other
    builds concurrently wait for it in turn. The lock is the connection's, which drops it as it
    closes. A pooler lends no connection for so long: there it is that of a transaction, in which
    nothing else is done.
    """
    if "report_revision" in context.config.attributes:
        yield
        return
    if not poolers.is_pooled(await connection.get_raw_connection()):
        await until_taken(connection, "pg_try_advisory_lock")
        await connection.commit()
        yield
        return
    async with engine.connect() as keeper:
        await until_taken(keeper, "pg_try_advisory_xact_lock")
        # The last statement of its transaction: after one that looks at the database, what it saw
        # would be kept, and an index could not be built concurrently.
        await keeper.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        yield


async def until_taken(connection: AsyncConnection, lock: str) -> None:
    """Takes the migrators' lock by one of PostgreSQL's functions, as soon as it can be had."""
    while not await connection.scalar(text(f"SELECT {lock}({MIGRATION_LOCK})")):
        await connection.rollback()
        await asyncio.sleep(TURN_POLL)


if context.is_offline_mode():
    run_offline()
else:
    asyncio.run(connect_and_run())
