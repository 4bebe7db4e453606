"""The database that is measured on: an embedded one as operators get it, full of users."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

import asyncpg

import migrations
from storage import embedded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from storage.embedded import Endpoint

# What each user is granted: nobody runs out of it, however long it takes.
GRANTED = 10**9
# Servers and pgbench keep theirs open at the same time.
CONNECTIONS = 200
FILL = (
    """
    INSERT INTO users (email, email_key, username, username_key, password_hash)
    SELECT name || '@example.com', name || '@example.com', name, name, '!'
    FROM generate_series(1, $1::bigint) AS number, format('user%s', number) AS name
    """,
    """
    INSERT INTO ledger (kind, to_user_id, amount, memo)
    SELECT 'grant', user_id, $1::bigint, '' FROM credit_accounts ORDER BY user_id
    """,
    "UPDATE credit_accounts SET available = $1",
)


@contextmanager
def credited(folder: Path, users: int) -> Iterator[Endpoint]:
    """Runs a database while the block lasts, with so many users from id 1 on, all with credits.

    What is committed is on disk: fsync is on.

    Args:
        folder: where its data goes.
        users: how many.
    """
    told = {"max_connections": str(CONNECTIONS)}
    with embedded.running(folder, settings=told) as endpoint:
        migrations.up(endpoint.url)
        asyncio.run(_fill(endpoint, users))
        yield endpoint


async def _fill(endpoint: Endpoint, users: int) -> None:
    connection = await asyncpg.connect(endpoint.psql)
    try:
        async with connection.transaction():
            for statement, number in zip(FILL, (users, GRANTED, GRANTED), strict=True):
                await connection.execute(statement, number)
        # As it is some time after it was filled.
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()
