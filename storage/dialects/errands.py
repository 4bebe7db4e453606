"""What is done aside, on a connection that waits for no other work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

Errand = Callable[[AsyncConnection], Awaitable[None]]


class Errands:
    """Runs errands one after another. Those that cannot be done in time are given up.

    Args:
        vital: whose one connection they have.
        patience: seconds that those of one time may take.
    """

    def __init__(self, vital: AsyncEngine, patience: float) -> None:
        self._vital = vital
        self._patience = patience
        self._waiting: list[Errand] = []
        self._running: asyncio.Task[None] | None = None

    def begin(self, errand: Errand) -> None:
        """Has an errand run soon, once if the same one waits already."""
        if errand not in self._waiting:
            self._waiting.append(errand)
        if self._running is None:
            # The deadline of the caller on whose behalf it is may have passed.
            running = asyncio.get_running_loop().create_task(self._run(), context=Context())
            self._running = running

    async def done(self) -> None:
        """Returns when all have been run, or given up."""
        if self._running is not None:
            await asyncio.wait([self._running])

    async def _run(self) -> None:
        try:
            # More may have come while the connection was given back.
            while self._waiting:
                async with asyncio.timeout(self._patience), self._vital.connect() as connection:
                    while self._waiting:
                        await self._waiting.pop(0)(connection)
        except (SQLAlchemyError, OSError, TimeoutError):
            self._waiting.clear()
        finally:
            self._running = None
