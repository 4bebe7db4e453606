"""What is done now and then, in the background of every server."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from service import maintenance
from service.maintenance import Job, Maintenance, finish
from storage.database import Database
from storage.errors import DatabaseDown, StorageError, Unexpected
from tests import factories
from tests.onlookers import (
    locked_table,
    looking_on,
    until_gone,
    until_nobody_waits,
    until_waiting_for_a_lock,
)
from tests.processes import until
from tests.service.writes import send

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.clients import Client
    from tests.conftest import Serve
    from tests.service.conftest import LogOf

SOON = 0.01


class Script:
    """A batch that returns, or raises, what it is given, one after the other, and then 0."""

    def __init__(self, *results: int | StorageError) -> None:
        self.calls = 0
        self._results = iter(results)

    async def __call__(self, _: Database) -> int:
        self.calls += 1
        for result in self._results:
            if isinstance(result, StorageError):
                raise result
            return result
        return 0


@pytest.fixture
def nowhere() -> Database:
    """A database that nobody asks for anything."""
    return Database("postgresql+asyncpg://byline@127.0.0.1:1/byline")


@asynccontextmanager
async def keeping_up(database: Database, *jobs: Job) -> AsyncIterator[None]:
    task = asyncio.ensure_future(Maintenance(database, jobs, SOON).keep_up())
    yield
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


async def test_a_job_is_done_batch_by_batch_until_nothing_is_left(nowhere: Database) -> None:
    script = Script(3, 3, 1)
    assert await finish(nowhere, Job("counted", script)) == 7
    assert script.calls == 4


async def test_jobs_are_done_again_and_again(nowhere: Database, log_of: LogOf) -> None:
    lines = log_of(maintenance)
    first, second = Script(3, 2, 0, 4), Script()
    async with keeping_up(nowhere, Job("first", first), Job("second", second)):
        await until(lambda: second.calls >= 3)
    # Of rounds in which there is nothing to do, nothing is said.
    assert [(line["job"], line["rows"]) for line in lines] == [("first", 5), ("first", 4)]


@pytest.mark.parametrize("error", [DatabaseDown("away"), Unexpected("a fault")])
async def test_a_job_that_fails_is_tried_again_and_keeps_no_other_waiting(
    nowhere: Database, log_of: LogOf, error: StorageError
) -> None:
    lines = log_of(maintenance)
    failing, other = Script(error, error, 5), Script()
    async with keeping_up(nowhere, Job("failing", failing), Job("other", other)):
        await until(lambda: failing.calls >= 4)
        assert other.calls >= 2
    assert [line["event"] for line in lines] == [*["maintenance failed"] * 2, "maintenance"]


async def test_a_server_purges_requests_when_their_time_is_over(
    serve: Serve, database_url: str
) -> None:
    async with serve(database_url, request_retention=SOON, maintenance_interval=SOON) as client:
        for _ in range(3):
            await _create_user(client)
        async with looking_on(database_url) as onlooker:

            async def none_is_left() -> bool:
                return not await onlooker.value("SELECT count(*) FROM requests")

            await until(none_is_left)


async def test_a_server_that_is_purging_can_be_stopped(serve: Serve, database_url: str) -> None:
    async with locked_table(database_url, "requests"):
        async with serve(database_url, maintenance_interval=SOON):
            await until_waiting_for_a_lock(database_url)
        # The lock is held to here: what still waited for it would be seen.
        await until_nobody_waits(database_url)
    await until_gone(database_url)


async def _create_user(client: Client) -> None:
    await send(client, "UserService/CreateUser", factories.create_user_request(), uuid4())
