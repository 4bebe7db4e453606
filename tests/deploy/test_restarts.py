"""What callers notice of servers that are stopped and started: nothing, by the config of clients.

They call by `deploy/client/service_config.json`, each on a connection of its own.
"""

from __future__ import annotations

import asyncio
import random
import signal
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import grpc
import pytest
from byline.v1 import credits_pb2
from byline.v1 import users_pb2 as pb
from byline.v1.credits_pb2_grpc import CreditServiceStub
from byline.v1.users_pb2_grpc import UserServiceStub

from tests import factories
from tests.clients import Client, Refusal, outcome_of
from tests.deploy.forked import Forked, shared_port
from tests.processes import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from service.config import Address, Settings

    Start = Callable[[], Forked]
    Call = Callable[[asyncio.Event, UserServiceStub, CreditServiceStub], Awaitable[None]]

CONFIG = (Path(__file__).parents[2] / "deploy" / "client" / "service_config.json").read_text()
CALLERS = 20
# Calls a second of all of them, and seconds between two pairs of calls of each.
RATE = 200
PAUSE = 2 * CALLERS / RATE
SIGTERMS = 100
RESTARTS = 6
# Seconds between them at most.
APART = 0.3
# Callers who have one address wait for as long until they can connect to the other server, and what
# has waited comes all at once.
TOLD = {"drain_pause": 0.3, "call_queue": 10}
HASTE = 0.1
# What a caller cannot tell the fate of a write from, and sends it again for.
UNSURE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}


class Load:
    """Callers who read a user and move a credit in turn, and what came of it.

    Args:
        address: of the servers.
        users: whose credits are moved, and who gets them.
        tries: times that a write is sent, with the same request id, at most.
        haste: seconds at most after which a write's first try is given up, done or not; 0 for none.
    """

    def __init__(
        self,
        address: Address,
        users: tuple[int, int],
        *,
        tries: int,
        haste: float,
    ) -> None:
        self.calls = 0
        self.under_way = 0
        self.moved = 0
        self.sent_again = 0
        self.failed: list[Refusal] = []
        self._address = address
        self._asked = credits_pb2.TransferRequest(
            from_user_id=users[0], to_user_id=users[1], amount=1
        )
        self._tries = tries
        self._haste = haste

    @asynccontextmanager
    async def steady(self) -> AsyncIterator[None]:
        """Makes so many calls a second while the block lasts, whatever becomes of those before."""

        async def call(
            stop: asyncio.Event, users: UserServiceStub, ours: CreditServiceStub
        ) -> None:
            async with asyncio.TaskGroup() as calls:
                while not stop.is_set():
                    calls.create_task(self._counted(self._read(users)))
                    calls.create_task(self._counted(self._write(ours)))
                    await asyncio.sleep(random.uniform(0, 2 * PAUSE))  # noqa: S311 - jitter

        async with self._offered(call):
            yield

    @asynccontextmanager
    async def eager(self) -> AsyncIterator[None]:
        """Makes a call as soon as the one before has ended, while the block lasts."""

        async def call(
            stop: asyncio.Event, users: UserServiceStub, ours: CreditServiceStub
        ) -> None:
            while not stop.is_set():
                await self._counted(self._read(users))
                await self._counted(self._write(ours))

        async with self._offered(call):
            yield

    @asynccontextmanager
    async def _offered(self, call: Call) -> AsyncIterator[None]:
        """Has callers call while the block lasts, and waits for the calls that are under way."""
        stop = asyncio.Event()

        async def connect() -> None:
            options = [
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.service_config", CONFIG),
                # A server that is slow to start is looked for again within the deadline of a read.
                ("grpc.max_reconnect_backoff_ms", 1000),
            ]
            async with grpc.aio.insecure_channel(str(self._address), options) as channel:
                await call(stop, UserServiceStub(channel), CreditServiceStub(channel))

        callers = [asyncio.create_task(connect()) for _ in range(CALLERS)]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*callers)

    async def _counted(self, call: Awaitable[None]) -> None:
        self.calls += 1
        self.under_way += 1
        await call
        self.under_way -= 1

    async def _read(self, users: UserServiceStub) -> None:
        read = await outcome_of(users.GetUser(pb.GetUserRequest(id=self._asked.from_user_id)))
        if isinstance(read, Refusal):
            self.failed.append(read)

    @staticmethod
    async def _outcome(call: Awaitable[object]) -> object:
        """Awaits a write, which the caller itself may have given up."""
        try:
            return await outcome_of(call)
        except asyncio.CancelledError:
            return Refusal(grpc.StatusCode.CANCELLED, "given up")

    async def _write(self, credits: CreditServiceStub) -> None:
        request = credits_pb2.TransferRequest()
        request.CopyFrom(self._asked)
        request.request_id = str(uuid4())
        for attempt in range(self._tries):
            call = credits.Transfer(request)
            if self._haste and not attempt:
                after = random.uniform(0, self._haste)  # noqa: S311 - a random moment
                asyncio.get_running_loop().call_later(after, call.cancel)
            written = await self._outcome(call)
            if not isinstance(written, Refusal):
                self.moved += 1
                return
            if attempt + 1 == self._tries or written.code not in UNSURE:
                self.failed.append(written)
                return
            self.sent_again += 1


@asynccontextmanager
async def _ledger(address: Address) -> AsyncIterator[tuple[int, int]]:
    """Yields who sends and who receives, and looks at the ledger in the end."""
    async with Client(str(address)) as client:
        sender, receiver = await factories.create_users_with(client, 1_000_000, 0)
    yield sender, receiver
    async with Client(str(address)) as client:
        audit = await client.credits.AuditCredits(credits_pb2.AuditCreditsRequest())
    assert not audit.discrepancies


@pytest.fixture
def where() -> Iterator[Address]:
    """A port that servers share."""
    with shared_port() as address:
        yield address


@pytest.fixture
def start(settings: Settings, database_url: str, where: Address) -> Iterator[Start]:
    """Starts servers on one port, which are gone after the test."""
    told = {"workers": 2, "health_interval": 1, "hash_threads": 1, "log_level": "error"}
    shared = settings.model_copy(update=told | TOLD)
    with ExitStack() as stack:

        def start_() -> Forked:
            server = Forked(shared, database_url, where)
            stack.callback(server.kill)
            return server

        yield start_


async def _received(address: Address, user: int) -> int:
    async with Client(str(address)) as client:
        asked = credits_pb2.GetBalanceRequest(user_id=user)
        balance: int = (await client.credits.GetBalance(asked)).available
        return balance


@pytest.mark.long
async def test_no_call_fails_while_two_servers_are_stopped_in_turn(
    start: Start, where: Address
) -> None:
    serving = [start(), start()]
    for server in serving:
        await server.started()
    stopped: list[Forked] = []
    async with _ledger(where) as users:
        load = Load(where, users, tries=1, haste=0)
        async with load.steady():
            await until(lambda: load.calls > RATE)
            for number in range(SIGTERMS):
                # However slow the machine: two drain at most, and callers are not behind.
                if number > 1:
                    await stopped[-2].status()
                await asyncio.sleep(random.uniform(0, APART))  # noqa: S311 - a random moment
                await until(lambda: load.under_way < CALLERS)
                which = random.randrange(2)  # noqa: S311 - either
                serving[which].signal(signal.SIGTERM)
                stopped.append(serving[which])
                serving[which] = start()
                await serving[which].started()
        assert load.failed == []
        assert await _received(where, users[1]) == load.moved
    assert {await server.status() for server in stopped} == {0}


@pytest.mark.long
async def test_through_restarts_no_read_fails_and_no_write_is_done_twice(
    start: Start, where: Address
) -> None:
    server = start()
    await server.started()
    async with _ledger(where) as users:
        load = Load(where, users, tries=10, haste=HASTE)
        async with load.eager():
            for number in range(RESTARTS):
                enough = load.moved + CALLERS
                await until(lambda: load.moved > enough)  # noqa: B023 - called here
                await asyncio.sleep(random.uniform(0, APART))  # noqa: S311 - a random moment
                # One that is killed has no time to answer for what it has done.
                server.signal(signal.SIGKILL if number % 2 else signal.SIGTERM)
                await server.status()
                server = start()
                await server.started()
        assert load.failed == []
        # Some had been done, and their answers lost; each counts once.
        assert load.sent_again
        assert await _received(where, users[1]) == load.moved
