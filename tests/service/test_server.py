"""The server's end; tests/test_serve.py has the whole process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
from byline.v1 import users_pb2 as pb
from byline.v1.users_pb2_grpc import UserServiceStub

from service import logs
from service.config import Address
from service.server import Server
from tests.clients import Refusal, outcome_of
from tests.processes import until

if TYPE_CHECKING:
    from service.config import Settings
    from tests.service.conftest import LogOf

CALLERS = 30
ROUNDS = 5


async def test_a_drain_answers_every_call_that_was_taken(
    settings: Settings, database_url: str, log_of: LogOf
) -> None:
    lines = log_of(logs)
    answered = 0

    async def call_until_refused(port: int) -> grpc.StatusCode:
        nonlocal answered
        # Channels share one connection otherwise.
        alone = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", alone) as channel:
            while True:
                call = UserServiceStub(channel).CountUsers(pb.CountUsersRequest())
                outcome = await outcome_of(call)
                if isinstance(outcome, Refusal):
                    return outcome.code
                answered += 1

    async def serve_and_drain() -> None:
        enough = answered + CALLERS
        async with Server(settings, database_url).serving(Address("127.0.0.1", 0)) as port:
            callers = [asyncio.ensure_future(call_until_refused(port)) for _ in range(CALLERS)]
            await until(lambda: answered > enough)
        # Those that were on their way: gRPC itself turns them away.
        turned_away = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert set(await asyncio.gather(*callers)) <= turned_away

    for _ in range(ROUNDS):
        await serve_and_drain()
    assert [line["code"] for line in lines] == ["OK"] * answered
