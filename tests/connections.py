"""Connections of the tests' own, which no Byline knows of, with the same few methods everywhere."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import asyncpg
from sqlalchemy import text

from storage.database import PoolConfig
from storage.dialects.engine import make_engine
from tests.servers import past_the_pooler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.ext.asyncio import AsyncConnection


class Connection(Protocol):
    """What asyncpg's connections can do, as far as tests of every database need it.

    Parameters are written `$1`, `$2`.
    """

    async def execute(self, sql: str, *parameters: object) -> object:
        """Runs a statement."""

    async def fetch(self, sql: str, *parameters: object) -> Sequence[Any]:
        """Returns the rows of a query."""

    async def fetchrow(self, sql: str, *parameters: object) -> Any:  # noqa: ANN401 - a row
        """Returns the first row of a query."""

    async def fetchval(self, sql: str, *parameters: object) -> Any:  # noqa: ANN401 - any value
        """Returns the first value of the first row of a query."""

    def transaction(self) -> AbstractAsyncContextManager[object]:
        """Runs what is in the block in one transaction."""


class Other:
    """A connection to a database that is not PostgreSQL."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def execute(self, sql: str, *parameters: object) -> None:
        """Runs a statement."""
        await self._run(sql, parameters)

    async def fetch(self, sql: str, *parameters: object) -> Sequence[Any]:
        """Returns the rows of a query."""
        rows: Sequence[Any] = (await self._run(sql, parameters)).all()
        return rows

    async def fetchrow(self, sql: str, *parameters: object) -> Any:  # noqa: ANN401 - a row
        """Returns the first row of a query."""
        return (await self._run(sql, parameters)).first()

    async def fetchval(self, sql: str, *parameters: object) -> Any:  # noqa: ANN401 - any value
        """Returns the first value of the first row of a query."""
        return (await self._run(sql, parameters)).scalar()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Runs what is in the block in one transaction."""
        is_sqlite = self._connection.dialect.name == "sqlite"
        await self.execute("BEGIN IMMEDIATE" if is_sqlite else "BEGIN")
        try:
            yield
        except BaseException:
            await self.execute("ROLLBACK")
            raise
        await self.execute("COMMIT")

    async def _run(self, sql: str, parameters: Sequence[object]) -> Any:  # noqa: ANN401 - a result
        named = text(re.sub(r"\$(\d+)", r":p\1", sql))
        given = {f"p{number}": value for number, value in enumerate(parameters, 1)}
        return await self._connection.execute(named, given)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """Opens a connection that is nobody else's, in autocommit."""
    if url.startswith("postgresql"):
        connection = await asyncpg.connect(past_the_pooler(url).replace("+asyncpg", ""))
        try:
            yield connection
        finally:
            await connection.close()
        return
    engine = make_engine(url, PoolConfig(size=1, overflow=0, statement_timeout=0))
    try:
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as other:
            yield Other(other)
    finally:
        await engine.dispose()
