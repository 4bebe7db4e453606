"""The plans of a call's statements, for callers with admin access who ask for them.

They are asked for when the call is over, on a connection of their own: to be explained changes
nothing in what a call does, and a plan that cannot be had is no failure of the call.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from service.calls import EXPLAIN
from storage import plans
from storage.errors import StorageError
from storage.usage import Usage, seconds_left, usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from service.calls import Call
    from storage.database import Database
    from storage.plans import Plan
    from storage.sessions import Read
    from storage.usage import Run

# Bytes of trailers, as HTTP/2 counts them. Clients take 8 KiB, of which the status needs its part.
MOST = 6144
OVERHEAD = 32 + len(EXPLAIN)
LONGEST_SQL = 200
# Seconds that all plans of a call may take.
PATIENCE = 2.0


class Explainer:
    """Has calls explained.

    Args:
        database: that they use.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def explain(self, call: Call) -> None:
        """Keeps the plans of a call's statements with it, as many as fit into its trailers."""
        runs = plans.statements_of(call.use.runs or ())
        if not runs:
            return
        # What is asked for here is none of the call's.
        token = usage.set(Usage(deadline=call.use.deadline))
        try:
            async with (
                asyncio.timeout(min(PATIENCE, max(0, seconds_left()))),
                self._database.read() as read,
            ):
                await self._explain(read, runs, call.plans)
        except (StorageError, TimeoutError) as error:
            call.plans.append(f"cut short: {type(error).__name__}")
        finally:
            usage.reset(token)

    @staticmethod
    async def _explain(read: Read, runs: Sequence[Run], told: list[str]) -> None:
        room = MOST
        for number, run in enumerate(runs, 1):
            for line in _lines(number, await plans.explain(read, run)):
                room -= len(line) + OVERHEAD
                if room < 0:
                    told.append(f"cut short: there are {len(runs)} statements")
                    return
                told.append(line)


def _lines(number: int, plan: Plan) -> Iterator[str]:
    """Yields a plan as trailers take it: printable ASCII, and no blanks where a line begins."""
    sql = " ".join(plan.sql.split())
    shown = sql if len(sql) <= LONGEST_SQL else f"{sql[:LONGEST_SQL]}..."
    for line in (f"{number}: {shown}", *(f"{number}| {each}" for each in plan.lines)):
        yield line.encode("ascii", "replace").decode()
