"""Databases of any kind as a test wants to find them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import make_url

from tests.connections import connected

if TYPE_CHECKING:
    from tests.connections import Connection

# Takes all credits away, past the triggers that keep the ledger.
_EMPTY_LEDGER = {
    "postgresql": (
        """
        DO $$ BEGIN
            IF EXISTS (SELECT FROM ledger) THEN
                ALTER TABLE ledger DISABLE TRIGGER keep_ledger;
                TRUNCATE ledger, open_holds RESTART IDENTITY;
                ALTER TABLE ledger ENABLE TRIGGER keep_ledger;
            END IF;
            UPDATE credit_accounts SET available = 0, held = 0
            WHERE available <> 0 OR held <> 0;
        END $$
        """,
    ),
    "mysql": (
        "TRUNCATE ledger",
        "DELETE FROM open_holds",
        "UPDATE credit_accounts SET available = 0, held = 0",
    ),
    "sqlite": (
        "DROP TRIGGER keep_ledger_from_DELETE",
        "DELETE FROM ledger",
        """
        CREATE TRIGGER keep_ledger_from_DELETE BEFORE DELETE ON ledger
        BEGIN SELECT RAISE(ABORT, 'byline_keep_ledger'); END
        """,
        "DELETE FROM open_holds",
        "UPDATE credit_accounts SET available = 0, held = 0",
    ),
}
_ROWS = ("DELETE FROM users", "DELETE FROM tags", "DELETE FROM requests")
_IDS = {
    "postgresql": [
        f"ALTER SEQUENCE {each}_id_seq RESTART" for each in ("users", "posts", "tags", "ledger")
    ],
    "mysql": [f"ALTER TABLE {each} AUTO_INCREMENT = 1" for each in ("users", "posts", "tags")],
    "sqlite": ["DELETE FROM sqlite_sequence"],
}


async def empty_ledger(url: str) -> None:
    """Takes all credits away."""
    await _run(url, *_EMPTY_LEDGER[_kind(url)])


async def empty(url: str) -> None:
    """Removes everything, and begins to count ids from the start."""
    await _run(url, *_EMPTY_LEDGER[_kind(url)], *_ROWS, *_IDS[_kind(url)])


def _kind(url: str) -> str:
    return make_url(url).get_backend_name()


async def _run(url: str, *statements: str) -> None:
    async with connected(url) as connection:
        for each in statements:
            await connection.execute(each)


async def clock(connection: Connection, url: str) -> datetime:
    """Returns what time it is by the database's clock."""
    asked = {
        "postgresql": "clock_timestamp()",
        "mysql": "sysdate(6)",
        "sqlite": "byline_clock()",
    }
    found = await connection.fetchval(f"SELECT {asked[_kind(url)]}")
    if isinstance(found, int):
        return datetime.fromtimestamp(found / 1_000_000, UTC)
    moment: datetime = found.replace(tzinfo=UTC)
    return moment
