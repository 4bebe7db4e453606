"""What has to be done now and then: in the background of every worker, or by hand."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import structlog

from storage import holds, requests
from storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from service.config import Settings
    from storage.database import Database

# Holds that one transaction releases at most.
BATCH = 1000

log = structlog.get_logger("byline.maintenance")


class Job(NamedTuple):
    """Work that is done a batch at a time, by any number of servers at once.

    Args:
        name: what is done, as the log and `byline maintenance` say it.
        batch: does a batch, and returns of how many rows; 0 when nothing is left to do.
    """

    name: str
    batch: Callable[[Database], Awaitable[int]]


def jobs(settings: Settings) -> tuple[Job, ...]:
    """Returns all that has to be done."""
    retention = timedelta(seconds=settings.request_retention)

    async def purge_requests(database: Database) -> int:
        async with database.transaction() as tx:
            return await requests.purge(tx, retention)

    async def release_holds(database: Database) -> int:
        async with database.transaction() as tx:
            return await holds.release_expired(tx, BATCH)

    return (Job("purged requests", purge_requests), Job("released holds", release_holds))


async def finish(database: Database, job: Job) -> int:
    """Does a job until nothing is left to do, and returns how many rows that were.

    Raises:
        StorageError: as the job does.
    """
    total = 0
    while rows := await job.batch(database):
        total += rows
    return total


class Maintenance:
    """Does the jobs again and again, in the background.

    Args:
        database: where there is something to do.
        jobs: what.
        interval: seconds between rounds, half as many more or less, so that servers that were
            started together do not all come at once.
    """

    def __init__(self, database: Database, jobs: Sequence[Job], interval: float) -> None:
        self._database = database
        self._jobs = jobs
        self._interval = interval

    async def keep_up(self) -> None:
        """Does the jobs until cancelled. One that fails is tried again in the next round."""
        while True:
            await asyncio.sleep(self._interval * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
            for job in self._jobs:
                await self._try(job)

    async def _try(self, job: Job) -> None:
        try:
            rows = await finish(self._database, job)
        except StorageError as error:
            log.warning("maintenance failed", job=job.name, error=type(error).__name__)
        else:
            if rows:
                log.info("maintenance", job=job.name, rows=rows)
