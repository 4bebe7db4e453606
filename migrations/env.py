"""How Alembic reaches the database: asynchronously, one migrator at a time."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING
from warnings import catch_warnings, filterwarnings

from alembic import context
from sqlalchemy.engine import make_url

from migrations import mariadb
from storage.dialects.migrating import make_engine, settings, turn
from storage.dialects.transactions import snapshot_options
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
        transactional_ddl=dialect != "mysql",
        transaction_per_migration=dialect != "sqlite",
    )
    with context.begin_transaction():
        for name, value in told(dialect).items():
            context.execute(f"SET {name} = {value if value.isdecimal() else repr(value)}")
        context.run_migrations()


def run_online(connection: Connection) -> None:
    """Runs the migrations, or says what revision the database is at."""
    attributes = context.config.attributes
    commits_each = connection.dialect.name == "mysql"
    if "report" in attributes:
        context.configure(connection=connection)
        bound_for = mariadb.bound_for(connection) if commits_each else None
        attributes["report"](context.get_context().get_current_revision(), bound_for)
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
        if commits_each and "goal" in attributes:
            mariadb.set_out(context.get_context(), connection, **attributes["goal"])
        with context.begin_transaction(), catch_warnings():
            # Of indexes of expressions on SQLite, where the models have none: see `is_of`.
            filterwarnings("ignore", "autogenerate skipping metadata-specified", UserWarning)
            context.run_migrations()


def is_of(dialect: str) -> Callable[..., bool]:
    """Returns what tells whether an object is one that the models and such a database share."""

    def include(item: object, name: str | None, kind: str, *_: object) -> bool:
        if kind == "table":
            # SQLite's search indexes are tables, and so is what they keep.
            return not str(name).startswith("ix_")
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
            looks = "report" in attributes
            if looks:
                await connection.execution_options(**snapshot_options(engine))
            async with nullcontext() if looks else turn(engine, connection, given):
                # The lock is the session's: what follows is in transactions of its own.
                await connection.commit()
                await connection.run_sync(run_online)
    finally:
        await engine.dispose()


if context.is_offline_mode():
    run_offline()
else:
    asyncio.run(connect_and_run())
