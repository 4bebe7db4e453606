"""Databases of any kind as a test wants to find them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.onlookers import looking_on
from tests.sessions import EMPTY_LEDGER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.onlookers import Onlooker

# Takes all credits away, past the triggers that keep the ledger.
_EMPTY_LEDGER = {
    "postgresql": (EMPTY_LEDGER,),
    "mysql": (
        """
        BEGIN NOT ATOMIC
            IF EXISTS (SELECT 1 FROM ledger) THEN
                TRUNCATE ledger;
                DELETE FROM open_holds;
            END IF;
            UPDATE credit_accounts SET available = 0, held = 0;
        END
        """,
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
_ROWS = ("DELETE FROM users", "DELETE FROM tags")
_REQUESTS = "DELETE FROM requests"
_IDS = {
    "postgresql": [
        f"ALTER SEQUENCE {each}_id_seq RESTART" for each in ("users", "posts", "tags", "ledger")
    ],
    "mysql": [
        f"ALTER TABLE {each} AUTO_INCREMENT = 1" for each in ("users", "posts", "tags", "ledger")
    ],
    "sqlite": ["DELETE FROM sqlite_sequence"],
}


async def empty(url: str) -> None:
    """Removes everything, and begins to count ids from the start."""
    async with looking_on(url) as onlooker:
        await empty_by(onlooker)


async def empty_by(onlooker: Onlooker) -> None:
    """Removes everything, and begins to count ids from the start."""
    await _run(onlooker, (*_EMPTY_LEDGER[onlooker.kind], *_ROWS, _REQUESTS, *_IDS[onlooker.kind]))


async def empty_but_for_requests(onlooker: Onlooker) -> None:
    """Removes all that requests can tell of, and leaves what they were answered."""
    await _run(onlooker, (*_EMPTY_LEDGER[onlooker.kind], *_ROWS))


async def _run(onlooker: Onlooker, statements: Sequence[str]) -> None:
    async with onlooker.transaction("commit"):
        for each in statements:
            await onlooker.execute(each)
