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

# Seconds between two looks, through a pooler, at whether the migrator before is done.
TURN_POLL = 0.2


def lock_timeout() -> str:
    """Says how long a step waits for a table before it gives up and leaves it as it was."""
    return f"SET lock_timeout = '{context.config.attributes['lock_timeout']}s'"


def run_offline() -> None:
    """Writes the SQL instead of running it."""
    context.configure(
        dialect_name=make_url(context.config.attributes["url"]).get_backend_name(),
        target_metadata=Base.metadata,
        literal_binds=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.execute(lock_timeout())
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
    attributes = context.config.attributes
    engine = create_async_engine(attributes["url"], poolclass=NullPool)
    poolers.introduce(engine, {"lock_timeout": f"{attributes['lock_timeout']}s"})
    try:
        async with engine.connect() as connection, turn(engine, connection):
            await connection.run_sync(run_online)
    finally:
        await engine.dispose()


@asynccontextmanager
async def turn(engine: AsyncEngine, connection: AsyncConnection) -> AsyncIterator[None]:
    """Waits until no other migrator is at work, however long that takes, and keeps others waiting.

    The lock is the connection's, which drops it as it closes. A pooler lends no connection for so
    long: there it is that of a transaction, in which nothing else is done.
    """
    if "report_revision" in context.config.attributes:
        yield
        return
    if not poolers.is_pooled(await connection.get_raw_connection()):
        await connection.execute(text("SET LOCAL lock_timeout = 0"))
        await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
        await connection.commit()
        yield
        return
    taken = text("SELECT pg_try_advisory_xact_lock(:key)")
    async with engine.connect() as keeper:
        while not await keeper.scalar(taken, {"key": MIGRATION_LOCK}):
            await keeper.rollback()
            await asyncio.sleep(TURN_POLL)
        # The last statement of its transaction: after one that looks at the database, what it saw
        # would be kept, and an index could not be built concurrently.
        await keeper.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        yield


if context.is_offline_mode():
    run_offline()
else:
    asyncio.run(connect_and_run())
