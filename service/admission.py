"""How many calls are taken on at once, so that those that are get answered.

Reads, writes and administration each have a gate of their own: however many come of one kind, the
others have theirs. Whoever finds a gate full waits in its queue, and whoever finds that full too is
refused at once, before the request is read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING

from byline.v1.access_pb2 import ACCESS_ADMIN, ACCESS_READ, ACCESS_WRITE, Access

from service import calls
from service.errors import Overloaded
from service.rates import Rates

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from service.config import Settings

# A call needs a connection for a part of its time, and some are made together on one. With fewer
# calls connections stand idle; with more, calls wait for them in vain.
CALLS_PER_CONNECTION = 4


class Gate:
    """Lets so many calls be under way at once; others wait for their turn, in the order they came.

    Args:
        limit: calls under way.
        queue: calls that wait beyond those.

    Attributes:
        refused: calls that found the queue full.
        given_up: calls that left the queue, or whose deadline passed in it.
    """

    def __init__(self, limit: int, queue: int) -> None:
        self.limit = limit
        self.refused = 0
        self.given_up = 0
        self._free = limit
        self._queue = queue
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def under_way(self) -> int:
        """How many calls are under way."""
        return self.limit - self._free

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._waiting)

    async def __aenter__(self) -> None:
        """Waits for a turn.

        Raises:
            Overloaded: when too many wait already.
        """
        # While calls wait nothing is free: a turn that ends is the next one's.
        if self._free:
            self._free -= 1
        else:
            await self._turn()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the turn."""
        self._pass_on()

    async def _turn(self) -> None:
        if len(self._waiting) >= self._queue:
            self.refused += 1
            raise Overloaded
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        call, began = calls.current.get(), perf_counter()
        call.is_queued = True
        try:
            await turn
            call.is_queued = False
        except asyncio.CancelledError:
            self.given_up += 1
            if turn.cancelled():
                self._waiting.remove(turn)
            else:
                # It came just before its caller left.
                self._pass_on()
            raise
        finally:
            call.queue += perf_counter() - began

    def _pass_on(self) -> None:
        for turn in self._waiting:
            # One that is cancelled leaves by itself.
            if not turn.done():
                self._waiting.remove(turn)
                turn.set_result(None)
                return
        self._free += 1


class Admission:
    """The gates of one server, by the access that a method needs, and the rates of its callers.

    Args:
        settings: how many calls, and how many database connections there are for them.

    Attributes:
        gates: all of them.
        rates: what bounds how often each caller calls; None if nothing does.
    """

    def __init__(self, settings: Settings) -> None:
        connections = settings.pool_size + settings.pool_overflow
        limits = {
            ACCESS_READ: settings.max_reads or connections * CALLS_PER_CONNECTION,
            ACCESS_WRITE: settings.max_writes or connections * CALLS_PER_CONNECTION,
            ACCESS_ADMIN: settings.max_admin or connections,
        }
        self.gates: Mapping[Access.ValueType, Gate] = {
            access: Gate(limit, round(limit * settings.call_queue))
            for access, limit in limits.items()
        }
        self.rates = None
        if settings.caller_rate is not None:
            burst = settings.caller_burst or max(1, round(settings.caller_rate))
            self.rates = Rates(settings.caller_rate, burst)

    def gate(self, access: Access.ValueType) -> Gate:
        """Returns the gate of a method's calls.

        Raises:
            KeyError: when the contract does not state the access that the method needs.
        """
        return self.gates[access]

    def shed(self, access: Access.ValueType) -> dict[str, int]:
        """Returns how many calls were not taken on, by why."""
        gate = self.gates[access]
        return {
            "queue_full": gate.refused,
            "gave_up": gate.given_up,
            "rate": self.rates.refused[access] if self.rates else 0,
        }
