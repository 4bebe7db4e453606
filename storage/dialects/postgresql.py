"""What PostgreSQL's connections do besides: they tell transactions of deadlines, and know moments.

Transactions are told as they begin, in the same round trip.

A caller with a deadline leaves when it has passed, which stops the statement. The server is told of
it all the same: it stops by itself if nobody is left to stop it, and it alone knows that a
statement waits for a lock. A statement that is a transaction by itself is told the latter alone.
"""

from __future__ import annotations

import math
import select
from functools import cached_property
from time import monotonic
from typing import TYPE_CHECKING, Any

from asyncpg import connection as driver
from sqlalchemy import event

from storage.moments import SECOND, Moment
from storage.usage import margin, seconds_left

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncEngine

LOCK_TIMEOUT = "lock_timeout"
STATEMENT_TIMEOUT = "statement_timeout"
# Seconds after which a connection that has been at nothing is not taken to be there still.
LATE = 5.0
# Its own moments are microseconds since 2000.
_BEGAN: Moment = 946_684_800 * SECOND


class Connection(driver.Connection):
    """A connection whose transactions keep within the caller's deadline."""

    # Whether it is to the database itself, which keeps what was prepared.
    is_direct = True
    # What every transaction is told as it begins, in SQL.
    told = ""
    # When it last answered, by `time.monotonic`.
    answered = -math.inf
    # Milliseconds of LOCK_TIMEOUT and STATEMENT_TIMEOUT that hold without a deadline.
    bounds: Mapping[str, int] = {}

    @property
    def lock_timeout(self) -> str:
        """How long a statement that begins now may wait for a lock, in milliseconds; 0 for ever."""
        bound = self.bounds.get(LOCK_TIMEOUT, 0)
        return str(_closer(LOCK_TIMEOUT, seconds_left(), bound) or bound)

    @property
    def answers(self) -> bool:
        """Whether it has answered of late, and nothing has come since that nobody asked for.

        What comes unasked is its end, more often than not. An end that does not come, as that of a
        machine that is gone, takes longer to find out.
        """
        is_late = monotonic() - self.answered > LATE
        return not is_late and not self.is_closed() and not self._ear.poll(0)

    @cached_property
    def _ear(self) -> select.poll:
        ear = select.poll()
        transport = self._transport  # type: ignore[attr-defined] # known to nobody else
        ear.register(transport.get_extra_info("socket"), select.POLLIN)
        return ear

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
    left, told = seconds_left(), ""
    # A lock that is waited for is told of, and so comes first.
    for name in (LOCK_TIMEOUT, STATEMENT_TIMEOUT):
        if milliseconds := _closer(name, left, bounds.get(name, 0)):
            told += f"SET LOCAL {name} = {milliseconds};"
    return told


def _closer(name: str, left: float, bound: int) -> int:
    """Returns the bound that a deadline sets, in milliseconds, where it is the closer; else 0."""
    if math.isinf(left):
        return 0
    seconds = left - margin(left) if name == LOCK_TIMEOUT else left
    # 0 would be no bound.
    milliseconds = max(1, math.ceil(seconds * 1000))
    return milliseconds if milliseconds < (bound or math.inf) else 0


def introduce(engine: AsyncEngine) -> None:
    """Has the connections of an engine take and give moments, instead of datetimes."""

    @event.listens_for(engine.sync_engine, "connect")
    def connect(connection: Any, _: object) -> None:  # noqa: ANN401 - SQLAlchemy's
        connection.run_async(_tell_of_moments)


async def _tell_of_moments(connection: driver.Connection) -> None:
    await connection.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        format="tuple",
        encoder=lambda moment: (moment - _BEGAN,),
        decoder=lambda told: told[0] + _BEGAN,
    )
