"""What PostgreSQL's transactions are told as they begin, in the same round trip.

A caller with a deadline leaves when it has passed, which stops the statement. The server is told of
it all the same: it stops by itself if nobody is left to stop it, and it alone knows that a
statement waits for a lock.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from asyncpg import connection as driver

from storage.usage import margin, seconds_left

if TYPE_CHECKING:
    from collections.abc import Mapping

LOCK_TIMEOUT = "lock_timeout"
STATEMENT_TIMEOUT = "statement_timeout"


class Connection(driver.Connection):
    """A connection whose transactions keep within the caller's deadline."""

    # Whether it is to the database itself, which keeps what was prepared.
    is_direct = True
    # What every transaction is told as it begins, in SQL.
    told = ""
    # Milliseconds of LOCK_TIMEOUT and STATEMENT_TIMEOUT that hold without a deadline.
    bounds: Mapping[str, int] = {}

    async def execute(self, query: str, *args: object, **options: Any) -> str:  # noqa: ANN401 - as the driver has it
        """Runs what needs no parameters; what begins a transaction takes the settings along."""
        if query.startswith("BEGIN"):
            query += self.told + within_deadline(self.bounds)
        return await super().execute(query, *args, **options)


def within_deadline(bounds: Mapping[str, int]) -> str:
    """Returns what tells a transaction of its caller's deadline, where that is the closer bound.

    Args:
        bounds: milliseconds, by the setting's name, that hold without it; 0 for no bound.
    """
    left = seconds_left()
    if math.isinf(left):
        return ""
    told = ""
    # A lock that is waited for is told of, and so comes first.
    for name, seconds in ((LOCK_TIMEOUT, left - margin(left)), (STATEMENT_TIMEOUT, left)):
        # 0 would be no bound.
        milliseconds = max(1, math.ceil(seconds * 1000))
        if milliseconds < (bounds.get(name) or math.inf):
            told += f"SET LOCAL {name} = {milliseconds};"
    return told
