"""Credits in a storm: calls that end anyhow on two accounts, and a database that restarts."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from byline.v1 import credits_pb2 as pb
from google.protobuf.duration_pb2 import Duration

import migrations
from storage import embedded
from tests import factories
from tests.clients import Refusal, outcome_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.clients import Client
    from tests.conftest import Serve

    Begin = Callable[..., Awaitable[Any]]

Code = grpc.StatusCode
CLIENTS = 64
SECONDS = 30.0
GRANTED = 10_000
# What an answer may be that says no.
BUSINESS = {"INSUFFICIENT_CREDITS", "HOLD_RESOLVED", "AMOUNT_TOO_LARGE"}
# Of a hundred calls, so many are given up, and so many have no time.
CANCELLED, HURRIED = 3, 3
PATIENT = 30.0
TRIES = 30


class Storm:
    """Clients that call until told to stop, and what their calls came to."""

    def __init__(self, client: Client, ids: list[int]) -> None:
        self._calls = client.credits
        self._ids = ids
        self._holds: list[int] = []
        self.over = asyncio.Event()
        self.ended = Counter[str]()

    async def blow(self, seed: int) -> None:
        draw = random.Random(seed)  # noqa: S311 - a race, no secret
        while not self.over.is_set():
            begin, request = self._draw(draw)
            lot = draw.randrange(100)
            if lot < CANCELLED:
                await self._cancel(begin(request), draw.random() * 0.2)
            elif lot < CANCELLED + HURRIED:
                await outcome_of(begin(request, timeout=draw.random() * 0.2))
                self.ended["hurried"] += 1
            else:
                self.ended[await self._patient(begin, request)] += 1

    def _draw(self, draw: random.Random) -> tuple[Begin, object]:
        sender, receiver = draw.sample(self._ids, 2)
        given: dict[str, Any] = {
            "from_user_id": sender,
            "to_user_id": receiver,
            "amount": draw.randint(1, 2000),
        }
        hold = draw.choice(self._holds) if self._holds else 1
        return draw.choice(
            (
                (self._calls.Transfer, pb.TransferRequest(**given)),
                (
                    self._calls.BatchTransfer,
                    pb.BatchTransferRequest(
                        transfers=[pb.NewTransfer(**given)] * 5, atomic=draw.random() < 0.5
                    ),
                ),
                (self._calls.Hold, pb.HoldRequest(**given, expires_in=Duration(nanos=100_000_000))),
                (self._calls.Hold, pb.HoldRequest(**given)),
                (self._calls.CaptureHold, pb.CaptureHoldRequest(transfer_id=hold)),
                (self._calls.ReleaseHold, pb.ReleaseHoldRequest(transfer_id=hold)),
                (self._calls.GetBalance, pb.GetBalanceRequest(user_id=sender)),
            )
        )

    async def _patient(self, begin: Begin, request: object) -> str:
        """Calls, again if the database is away, and tells what that came to."""
        for _ in range(TRIES):
            outcome = await outcome_of(begin(request, timeout=PATIENT))
            if isinstance(outcome, pb.HoldResponse):
                self._holds = [*self._holds[-100:], outcome.transfer.id]
            if isinstance(outcome, pb.GetBalanceResponse):
                assert outcome.available >= 0
                assert outcome.held >= 0
            if not isinstance(outcome, Refusal):
                return "OK"
            if outcome.code is not Code.UNAVAILABLE:
                return outcome.reason
            self.ended["tries while the database was away"] += 1
            await asyncio.sleep(outcome.retry_after or 0.1)
        return "UNAVAILABLE"

    async def _cancel(self, call: Any, after: float) -> None:  # noqa: ANN401 - a call of grpc.aio
        done, _ = await asyncio.wait([asyncio.ensure_future(_end_of(call))], timeout=after)
        if not done:
            call.cancel()
        self.ended["cancelled"] += 1


async def _end_of(call: Any) -> None:  # noqa: ANN401 - a call of grpc.aio
    await call.code()


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    with embedded.running(folder) as endpoint:
        yield endpoint.url


@pytest.mark.long
@pytest.mark.parametrize("gathered", [False, True], ids=["one by one", "gathered"])
async def test_no_credits_are_lost_in_a_storm(
    serve: Serve, tmp_path: Path, *, gathered: bool
) -> None:
    """A few thousand calls, some given up, some out of time, and one restart of the database."""
    database = _server(tmp_path / "data")
    url = await asyncio.to_thread(database.__enter__)
    try:
        await asyncio.to_thread(migrations.up, url)
        async with serve(url, gather_transfers=gathered) as client:
            ids = await factories.create_users_with(client, GRANTED, GRANTED)
            storm = Storm(client, ids)
            clients = [asyncio.create_task(storm.blow(seed)) for seed in range(CLIENTS)]
            await asyncio.sleep(SECONDS / 3)
            await asyncio.to_thread(database.__exit__, None, None, None)
            database = _server(tmp_path / "data")
            assert await asyncio.to_thread(database.__enter__) == url
            await asyncio.sleep(SECONDS * 2 / 3)
            storm.over.set()
            await asyncio.gather(*clients)
            audit = await client.credits.AuditCredits(pb.AuditCreditsRequest())
    finally:
        await asyncio.to_thread(database.__exit__, None, None, None)
    assert not audit.discrepancies
    assert audit.total_granted == audit.total_balance == GRANTED * 2
    meant = {"OK", *BUSINESS}
    aside = {"hurried", "cancelled", "tries while the database was away"}
    counted = {what: number for what, number in storm.ended.items() if what not in aside}
    well = sum(number for what, number in counted.items() if what in meant)
    assert storm.ended["tries while the database was away"] > 0, storm.ended
    assert well >= 0.999 * sum(counted.values()), storm.ended
    assert counted.get("CONTENTION", 0) <= 0.001 * sum(counted.values()), storm.ended
