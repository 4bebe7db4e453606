"""A server that is killed at any moment, while its callers send again what was not answered."""

from __future__ import annotations

import asyncio
import random
import secrets
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import grpc
import pytest
from byline.v1 import posts_pb2 as pb

from storage.database import Database
from tests import factories
from tests.clients import Client, Refusal, outcome_of
from tests.processes import PATIENCE, Byline, until
from tests.statements import post_counts, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

CALLERS = 8
# Acknowledged calls and seconds, at most, between a start of the server and its end.
MOST_CALLS, MOST_SECONDS = 20, 0.05
# Milliseconds until a client that has lost its server looks for it again.
SOON = {"initial_reconnect_backoff_ms": 100, "max_reconnect_backoff_ms": 100}
# What tells a caller nothing of whether the call took effect.
UNKNOWN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL}


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder."""
    path = Path(tempfile.mkdtemp(prefix="byline-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    yield database
    await database.close()


class Callers:
    """Callers who write posts, each titled by a number, until told to stop."""

    def __init__(self, client: Client, author_id: int) -> None:
        self.acknowledged: dict[str, int] = {}
        self.sent_again = 0
        self.stopping = False
        self._client = client
        self._author_id = author_id

    async def get_on(self, calls: int) -> None:
        """Waits until so many more calls are acknowledged."""
        wanted = len(self.acknowledged) + calls
        await until(lambda: len(self.acknowledged) >= wanted)

    async def call(self, name: int) -> None:
        """Writes one post after the other, each until it is acknowledged."""
        number = 0
        while not self.stopping:
            number += 1
            request = pb.CreatePostRequest(
                author_id=self._author_id, title=f"{name}/{number}", request_id=str(uuid4())
            )
            while isinstance(answer := await self._send(request), Refusal):
                assert answer.code in UNKNOWN, answer
                self.sent_again += 1
            self.acknowledged[request.title] = answer.post.id

    async def _send(self, request: pb.CreatePostRequest) -> pb.CreatePostResponse | Refusal:
        call = self._client.posts.CreatePost(request, timeout=PATIENCE, wait_for_ready=True)
        return await outcome_of(call)


@pytest.mark.parametrize("rounds", [3, pytest.param(200, marks=pytest.mark.long)])
async def test_what_was_acknowledged_is_there_once_however_often_the_server_is_killed(
    folder: Path, db: Database, database_url: str, rounds: int
) -> None:
    seed = secrets.randbits(32)
    print(f"the moments of seed {seed}")  # noqa: T201 - shown when the test fails
    moments = random.Random(seed)  # noqa: S311 - may be foreseen
    author = await factories.add_user(db)
    byline = Byline(folder, "--database-url", database_url)
    try:
        await byline.started()
        # Started again, it listens where its callers know it to be.
        flags = ("--database-url", database_url, "--listen", byline.address)
        async with Client(byline.address, **SOON) as client, asyncio.TaskGroup() as group:
            callers = Callers(client, author.id)
            for name in range(CALLERS):
                group.create_task(callers.call(name))
            for _ in range(rounds):
                await callers.get_on(moments.randint(1, MOST_CALLS))
                await asyncio.sleep(moments.uniform(0, MOST_SECONDS))
                byline.kill()
                byline = Byline(folder, *flags)
                await byline.started()
            callers.stopping = True
        await byline.stop()
    finally:
        byline.kill()
    rows = list(await run(db, "SELECT title, id FROM posts"))
    kept = {row.title: row.id for row in rows}
    assert len(rows) == len(kept), Counter(row.title for row in rows).most_common(3)
    assert kept == callers.acknowledged
    assert await post_counts(db) == {author.id: len(kept)}
    # There was something to survive.
    assert callers.sent_again >= rounds
