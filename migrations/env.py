"""How Alembic reaches the database: asynchronously, one migrator at a time."""

from __future__ import annotations

import asyncio
import time
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

# Seconds between two looks at whether the migrator before is done.
TURN_POLL = 0.2


def session_settings() -> tuple[str, ...]:
    """Says how long a step waits for a table before it gives up, and for what else it does not."""
    return (
        f"SET lock_timeout = '{context.config.attributes['lock_timeout']}s'",
        # A role's own limit is meant for callers: with it, a long step would never be done.
        "SET statement_timeout = 0",
        # What a migrator holds whose machine is gone, others wait for no longer than this.
        "SET idle_in_transaction_session_timeout = '60s'",
    )


def run_offline() -> None:
    """Writes the SQL instead of running it."""
    context.configure(
        dialect_name=make_url(context.config.attributes["url"]).get_backend_name(),
        target_metadata=Base.metadata,
        literal_binds=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        for setting in session_settings():
            context.execute(setting)
        context.run_migrations()


def run_online(connection: Connection) -> None:
    """Runs the migrations while holding the lock that keeps other migrators waiting."""
    attributes = context.config.attributes
    if "report_revision" in attributes:
        set_up(connection)
        context.configure(connection=connection)
        attributes["report_revision"](context.get_context().get_current_revision())
        return
    take_turn(connection)
    set_up(connection)
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        transaction_per_migration=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def set_up(connection: Connection) -> None:
    """Makes the settings hold on the connection."""
    for setting in session_settings():
        connection.execute(text(setting))
    connection.commit()


def take_turn(connection: Connection) -> None:
    """Waits until no other migrator is at work, however long that takes.

    It asks again and again: one that waited within a statement would have an index that the other
    builds concurrently wait for it in turn.
    """
    connection.execute(text("SET application_name = 'byline-migrate'"))
    taken = text("SELECT pg_try_advisory_lock(:key)")
    while not connection.scalar(taken, {"key": MIGRATION_LOCK}):
        connection.commit()
        time.sleep(TURN_POLL)
    connection.commit()


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
