"""How Alembic reaches the database: asynchronously, one migrator at a time."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING

from alembic import context
from sqlalchemy.engine import make_url

from storage.dialects.migrating import make_engine, settings, turn
from storage.models import Base

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection


def told(dialect: str) -> dict[str, str]:
    """Returns what this kind of database is told before a step."""
    return dict(settings(dialect, context.config.attributes["lock_timeout"]))


def run_offline() -> None:
    """Writes the SQL instead of running it."""
    dialect = make_url(context.config.attributes["url"]).get_backend_name()
    context.configure(
        dialect_name=dialect,
        target_metadata=Base.metadata,
        literal_binds=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        for name, value in told(dialect).items():
            # MariaDB takes no text for a number.
            context.execute(f"SET {name} = {value if value.isdigit() else repr(value)}")
        context.run_migrations()


def run_online(connection: Connection) -> None:
    """Runs the migrations, or says what revision the database is at."""
    attributes = context.config.attributes
    if "report_revision" in attributes:
        context.configure(connection=connection)
        attributes["report_revision"](context.get_context().get_current_revision())
        return
    # On SQLite all steps are one transaction, which keeps other migrators waiting.
    in_one = connection.dialect.name == "sqlite"
    with connection.begin() if in_one else nullcontext():
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            transaction_per_migration=not in_one,
            compare_server_default=connection.dialect.name == "postgresql",
            include_object=is_of(connection.dialect.name),
        )
        with context.begin_transaction():
            context.run_migrations()


def is_of(dialect: str) -> Callable[..., bool]:
    """Returns what tells whether a kind of database has an object of the models."""

    def include(item: object, _: str | None, kind: str, *__: object) -> bool:
        condition = getattr(item, "_ddl_if", None) if kind == "index" else None
        return condition is None or condition.dialect == dialect

    return include


async def connect_and_run() -> None:
    """Opens the one connection that the migrations use, and closes it."""
    attributes = context.config.attributes
    given = told(make_url(attributes["url"]).get_backend_name())
    engine = make_engine(attributes["url"], given)
    try:
        async with engine.connect() as connection:
            alone = "report_revision" not in attributes
            async with turn(engine, connection, given) if alone else nullcontext():
                # The lock is the session's: what follows is in transactions of its own.
                await connection.commit()
                await connection.run_sync(run_online)
    finally:
        await engine.dispose()


if context.is_offline_mode():
    run_offline()
else:
    asyncio.run(connect_and_run())
