"""How Alembic reaches the database: asynchronously, one migrator at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from alembic import context
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from migrations import MIGRATION_LOCK
from storage.models import Base

if TYPE_CHECKING:
    from sqlalchemy import Connection


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
    """Runs the migrations while holding the lock that keeps other migrators waiting."""
    attributes = context.config.attributes
    if "report_revision" in attributes:
        context.configure(connection=connection)
        attributes["report_revision"](context.get_context().get_current_revision())
        return
    # Taken before lock_timeout is set: the other migrator may be at work for long.
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
    connection.execute(text(lock_timeout()))
    connection.commit()
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        transaction_per_migration=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def connect_and_run() -> None:
    """Opens the one connection that the migrations use, and closes it, which drops the lock."""
    engine = create_async_engine(context.config.attributes["url"], poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(run_online)
    finally:
        await engine.dispose()


if context.is_offline_mode():
    run_offline()
else:
    asyncio.run(connect_and_run())
