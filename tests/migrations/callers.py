"""Callers who must not notice that the schema changes under the server that they call."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.clients import Refusal, outcome_of
from tests.migrations.kinds import kinds_at
from tests.processes import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.clients import Client

CALLERS = 6
# Rounds of every caller before the step, and after it.
ROUNDS = 3


class Callers:
    """Callers who write and look at what they wrote, round after round.

    Args:
        client: of the server that they call.
        revision: what is kept at which they write.
    """

    def __init__(self, client: Client, revision: str) -> None:
        self.rounds = 0
        self.stopping = False
        self._client = client
        self._kinds = kinds_at(revision)

    async def call(self) -> None:
        """Writes one of each kind after the other until told to stop, and fails with a call."""
        while not self.stopping:
            for kind in self._kinds:
                kept = await outcome_of(kind(self._client))
                assert not isinstance(kept, Refusal), kept
                assert await outcome_of(kept.see()) == kept.seen
            self.rounds += 1

    async def get_on(self) -> None:
        """Waits until they have been through some more rounds."""
        wanted = self.rounds + ROUNDS * CALLERS
        await until(lambda: self.rounds >= wanted)


@asynccontextmanager
async def load(client: Client, revision: str) -> AsyncIterator[Callers]:
    """Has callers at work before the block, while it lasts and after it."""
    callers = Callers(client, revision)
    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(callers.call())
        await callers.get_on()
        yield callers
        await callers.get_on()
        callers.stopping = True
