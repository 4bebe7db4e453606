"""A server that is killed at any moment, while its callers send again what was not answered."""

from __future__ import annotations

import asyncio
import random
import secrets
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
import pytest
from byline.v1 import credits_pb2, posts_pb2

from storage import audit, credits
from storage.database import Database
from tests import factories
from tests.clients import Client, Refusal, outcome_of
from tests.processes import PATIENCE, Byline, until
from tests.statements import post_counts, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

CALLERS = 8
GRANTED = 1_000_000
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
    """Callers who write posts or make transfers, each with a number of its own, until told to stop.

    Args:
        client: of the server that is killed.
        users: who writes all posts and gives all credits, and who gets them.
    """

    def __init__(self, client: Client, users: tuple[int, int]) -> None:
        self.acknowledged: dict[str, int] = {}
        self.sent_again = 0
        self.stopping = False
        self._client = client
        self._users = users

    async def get_on(self, calls: int) -> None:
        """Waits until so many more calls are acknowledged."""
        wanted = len(self.acknowledged) + calls
        await until(lambda: len(self.acknowledged) >= wanted)

    async def call(self, name: int) -> None:
        """Does one thing after the other, each until it is acknowledged."""
        act = self._write if name % 2 else self._give
        number = 0
        while not self.stopping:
            number += 1
            await act(f"{name}/{number}", str(uuid4()))

    async def _write(self, title: str, request_id: str) -> None:
        request = posts_pb2.CreatePostRequest(
            author_id=self._users[0], title=title, request_id=request_id
        )
        answer = await self._send(self._client.posts.CreatePost, request)
        self.acknowledged[title] = answer.post.id

    async def _give(self, memo: str, request_id: str) -> None:
        giver, receiver = self._users
        request = credits_pb2.TransferRequest(
            from_user_id=giver, to_user_id=receiver, amount=1, memo=memo, request_id=request_id
        )
        answer = await self._send(self._client.credits.Transfer, request)
        self.acknowledged[memo] = answer.transfer.id

    async def _send(self, rpc: Callable[..., Any], request: object) -> Any:  # noqa: ANN401 - the answer
        while isinstance(
            answer := await outcome_of(rpc(request, timeout=PATIENCE, wait_for_ready=True)), Refusal
        ):
            assert answer.code in UNKNOWN, answer
            self.sent_again += 1
        return answer


@pytest.mark.parametrize("rounds", [3, pytest.param(200, marks=pytest.mark.long)])
async def test_what_was_acknowledged_is_there_once_however_often_the_server_is_killed(
    folder: Path, db: Database, database_url: str, rounds: int
) -> None:
    seed = secrets.randbits(32)
    print(f"the moments of seed {seed}")  # noqa: T201 - shown when the test fails
    moments = random.Random(seed)  # noqa: S311 - may be foreseen
    giver, receiver = await factories.add_users_with(db, GRANTED, 0)
    options = ("--database-url", database_url)
    byline = Byline(folder, *options)
    try:
        await byline.started()
        # Started again, it listens where its callers know it to be.
        flags = (*options, "--listen", byline.address)
        async with Client(byline.address, **SOON) as client, asyncio.TaskGroup() as group:
            callers = Callers(client, (giver, receiver))
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
    written = list(await run(db, "SELECT title, id FROM posts"))
    given = list(await run(db, "SELECT memo, id FROM ledger WHERE kind = 'transfer'"))
    kept = [*written, *given]
    assert dict(map(tuple, kept)) == callers.acknowledged
    assert len(kept) == len(callers.acknowledged), Counter(row[0] for row in kept).most_common(3)
    assert await post_counts(db) == {giver: len(written), receiver: 0}
    async with db.read(snapshot=True) as read:
        assert (await credits.get_balance(read, receiver)).available == len(given)
        assert (await audit.audit(read)).discrepancies == []
    # There was something to survive.
    assert callers.sent_again >= rounds
