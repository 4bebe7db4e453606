"""grpc.health.v1: serving while the database answers, with some patience; not while draining."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as grpc_health

from storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.database import Database

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

log = structlog.get_logger("byline.health")


class Health:
    """Keeps the health of all services up to date.

    Args:
        database: what is looked at.
        services: full names of the services; "" stands for the whole server and is always there.
        interval: seconds between looks, and at most for one look.
        patience: seconds of failing looks before the health turns, so that it does not flap.
    """

    def __init__(
        self, database: Database, services: Sequence[str], *, interval: float, patience: float
    ) -> None:
        self.servicer = grpc_health.HealthServicer()
        self._database = database
        self._services = ("", *services)
        self._interval = interval
        self._patience = patience
        self._serving: bool | None = None
        self._draining = False

    async def watch(self) -> None:
        """Looks at the database until cancelled."""
        await self._set(serving=False)
        last_good = float("-inf")
        while True:
            if await self._database_answers():
                last_good = time.monotonic()
            await self._set(serving=time.monotonic() - last_good <= self._patience)
            await asyncio.sleep(self._interval)

    @property
    def is_serving(self) -> bool:
        """Whether calls are to be sent here."""
        return bool(self._serving) and not self._draining

    async def drain(self) -> None:
        """Turns everything to NOT_SERVING for good."""
        self._draining = True
        await self.servicer.enter_graceful_shutdown()

    async def _database_answers(self) -> bool:
        try:
            async with asyncio.timeout(max(self._interval, 1)):
                await self._database.ping()
        except (StorageError, TimeoutError) as error:
            log.warning("the database does not answer", error=str(error) or type(error).__name__)
            return False
        return True

    async def _set(self, *, serving: bool) -> None:
        if serving == self._serving:
            return
        if self._serving is not None:
            log.info("health changes", serving=serving)
        self._serving = serving
        for service in self._services:
            await self.servicer.set(service, SERVING if serving else NOT_SERVING)
