"""What is done aside, on behalf of callers who do not wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

Errand = Callable[[AsyncConnection], Awaitable[None]]


class Errands:
    """Runs errands one after another. What fails is given up, and all that wait with what hangs.

    Args:
        engine: whose connections they have.
        patience: seconds that each may take.
    """

    def __init__(self, engine: AsyncEngine, patience: float) -> None:
        self._engine = engine
        self._patience = patience
        # The first of them is under way.
        self._waiting: list[Errand] = []
        self._running: asyncio.Task[None] | None = None

    def begin(self, errand: Errand) -> None:
        """Has an errand run soon.

        Args:
            errand: what to run; an equal one that waits, or is under way, stands for it.
        """
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
            while self._waiting:
                async with asyncio.timeout(self._patience), self._engine.connect() as connection:
                    with suppress(DBAPIError):
                        await self._waiting[0](connection)
                del self._waiting[0]
        except (SQLAlchemyError, OSError, TimeoutError):
            # The database does not answer. When it does, a number may be another connection's.
            pass
        finally:
            self._waiting.clear()
            self._running = None
