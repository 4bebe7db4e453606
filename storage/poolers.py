"""What holds where a pooler, such as PgBouncer in transaction mode, lends out its own connections.

It lends a connection of the database for one transaction. What a client says of its session is
refused, or reaches somebody else, and so does what a client prepares. A pooler gives itself away by
a setting that it has never heard of, and that every PostgreSQL takes. From then on a statement has
no name and travels whole, still in one round trip; a transaction is told the settings as it begins;
and outside of transactions it is the driver that stops what takes too long. All of this would hold
on PostgreSQL itself: to see a pooler where there is none costs time, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncpg import QueryCanceledError
from sqlalchemy import event
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.util.concurrency import in_greenlet

from storage.dialects.postgresql import LOCK_TIMEOUT, STATEMENT_TIMEOUT, Connection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncpg.prepared_stmt import PreparedStatement
    from sqlalchemy import PoolProxiedConnection
    from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import ConnectionPoolEntry

# PostgreSQL takes any setting with a dot. Poolers are often told to ignore settings that clients
# send, which is no use to a client that relies on them: of this one they have not been told.
TELLTALE = "byline.direct"
# What PgBouncer answers to a setting that it does not know (protocol_violation), and what others do
# (feature_not_supported).
REFUSALS = {"08P01", "0A000"}
# What PgBouncer itself tells the connections that it lends to a client.
PASSED_ON = {"application_name", "timezone"}


class PooledConnection(Connection):
    """A connection to a pooler. Those who use it need not know."""

    is_direct = False
    # Seconds that a statement outside of transactions may take.
    patience: float | None = None

    async def prepare(self, query: str, **options: Any) -> Any:  # noqa: ANN401 - as the driver has it
        """Has a statement described. Without a name, it is sent again whenever it is run."""
        options["name"] = ""
        try:
            prepared = await super().prepare(query, **options, timeout=self.bound())
        except TimeoutError:
            raise QueryCanceledError("the statement took too long") from None
        return _Statement(self, prepared)

    def bound(self) -> float | None:
        """Seconds that the next statement may take, if the database has not been told."""
        return None if self.is_in_transaction() else self.patience


class _Statement:
    """A statement that has been described, and may be run any number of times."""

    def __init__(self, connection: PooledConnection, prepared: PreparedStatement[Any]) -> None:
        self._connection = connection
        self._prepared = prepared

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the driver's has
        return getattr(self._prepared, name)

    async def fetch(self, *values: object) -> list[Any]:
        """Runs the statement and returns its rows."""
        try:
            return await self._prepared.fetch(*values, timeout=self._connection.bound())
        except TimeoutError:
            raise QueryCanceledError("the statement took too long") from None


def introduce(engine: AsyncEngine, settings: Mapping[str, str]) -> None:
    """Has all connections of an engine know the settings, whoever it is that answers.

    Args:
        engine: of asyncpg's.
        settings: of PostgreSQL's; timeouts in milliseconds.
    """
    pooled = False
    bounded = _bounds(settings)

    class Direct(Connection):
        bounds = bounded

    @event.listens_for(engine.sync_engine, "do_connect")
    def connect(
        dialect: Dialect, _: ConnectionPoolEntry, arguments: list[Any], options: dict[str, Any]
    ) -> DBAPIConnection:
        nonlocal pooled
        if not in_greenlet():
            # Found out in time: the driver's coroutine would be left behind unawaited.
            raise MissingGreenlet("to open a connection takes waiting")
        if not pooled:
            told = {**settings, TELLTALE: "on"}
            try:
                return dialect.connect(
                    *arguments, **options, server_settings=told, connection_class=Direct
                )
            except dialect.loaded_dbapi.Error as error:
                if getattr(error, "sqlstate", None) not in REFUSALS:
                    raise
        connection = dialect.connect(*arguments, **options | _options_for_pooler(settings))
        pooled = True
        return connection


def is_pooled(connection: PoolProxiedConnection) -> bool:
    """Tells whether a pooler lent the connection."""
    # The driver has isinstance() say that each of its connections is of each of its classes.
    return issubclass(type(connection.driver_connection), PooledConnection)


def _bounds(settings: Mapping[str, str]) -> dict[str, int]:
    return {name: int(settings.get(name, "0")) for name in (LOCK_TIMEOUT, STATEMENT_TIMEOUT)}


def _options_for_pooler(settings: Mapping[str, str]) -> dict[str, Any]:
    """What the driver is told to open a connection that a pooler lends."""
    untold = {name: value for name, value in settings.items() if name not in PASSED_ON}

    class Told(PooledConnection):
        told = "".join(f"SET LOCAL {name} = '{value}';" for name, value in untold.items())
        bounds = _bounds(settings)
        patience = bounds[STATEMENT_TIMEOUT] / 1000 or None

    return {
        "connection_class": Told,
        "server_settings": {name: settings[name] for name in PASSED_ON & settings.keys()},
        # The driver would take it that what it has prepared stays prepared.
        "statement_cache_size": 0,
    }
