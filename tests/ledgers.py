"""Credits as an auditor sees them, and what a call came to where it may be refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage import audit, credits
from storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from typing import TypeVar

    from storage.database import Database

    Result = TypeVar("Result")


async def balances(db: Database, *user_ids: int) -> list[tuple[int, int]]:
    """What each user has available and held, once an audit has found nothing."""
    async with db.read(snapshot=True) as read:
        found = await audit.audit(read)
        assert [each.text for each in found.discrepancies] == []
        rows = [await credits.get_balance(read, user_id) for user_id in user_ids]
    return [(row.available, row.held) for row in rows]


async def outcome_of(call: Awaitable[Result]) -> Result | StorageError:
    """Awaits what storage may refuse, and returns what it refused with."""
    try:
        return await call
    except StorageError as error:
        return error
