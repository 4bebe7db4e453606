"""How many calls are taken on at once: turns, queues, refusals, and shares that are kept apart."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import grpc
import pytest
from byline.v1 import credits_pb2, tags_pb2
from byline.v1 import users_pb2 as pb
from grpc_health.v1 import health_pb2

from service.admission import Admission, Gate
from service.config import Settings
from service.errors import Overloaded
from tests.clients import Client, Refusal, outcome_of, refusal_of
from tests.onlookers import locked_table, until_waiting_for_a_lock
from tests.processes import until

if TYPE_CHECKING:
    from tests.conftest import Serve

Code = grpc.StatusCode
OVERLOADED = (Code.RESOURCE_EXHAUSTED, "byline/OVERLOADED", ("", ""))
# What no test waits for; one that does has failed.
LONG = 60.0


class Caller:
    """Somebody who goes through a gate and stays until told to leave."""

    def __init__(self, gate: Gate) -> None:
        self.is_in = False
        self._leave = asyncio.Event()
        self.task = asyncio.ensure_future(self._go(gate))

    async def _go(self, gate: Gate) -> None:
        async with gate:
            self.is_in = True
            await self._leave.wait()
        self.is_in = False

    async def leave(self) -> None:
        self._leave.set()
        await self.task
        await asyncio.sleep(0)


async def callers_at(gate: Gate, count: int) -> list[Caller]:
    made = [Caller(gate) for _ in range(count)]
    await asyncio.sleep(0)
    return made


async def test_so_many_are_in_and_the_next_follow_in_the_order_they_came() -> None:
    callers = await callers_at(gate := Gate(2, queue=3), 5)
    assert [each.is_in for each in callers] == [True, True, False, False, False]
    await callers[1].leave()
    assert [each.is_in for each in callers] == [True, False, True, False, False]
    await callers[0].leave()
    assert [each.is_in for each in callers] == [False, False, True, True, False]
    for each in callers[2:]:
        await each.leave()
    assert all(each.is_in for each in await callers_at(gate, 2))


async def test_who_finds_the_queue_full_is_refused_and_takes_no_turn() -> None:
    callers = await callers_at(gate := Gate(1, queue=1), 3)
    with pytest.raises(Overloaded):
        await callers[2].task
    await callers[0].leave()
    assert callers[1].is_in
    (waiting,) = await callers_at(gate, 1)
    await callers[1].leave()
    assert waiting.is_in


async def test_who_leaves_the_queue_makes_room_in_it() -> None:
    callers = await callers_at(gate := Gate(1, queue=1), 2)
    callers[1].task.cancel()
    await asyncio.wait([callers[1].task])
    (next_,) = await callers_at(gate, 1)
    await callers[0].leave()
    assert next_.is_in


async def test_a_turn_that_comes_as_its_caller_leaves_is_the_next_ones() -> None:
    first, second, third = await callers_at(Gate(1, queue=2), 3)
    # The first leaves, and the second is cancelled in the same step of the event loop.
    first._leave.set()  # noqa: SLF001 - without waiting for its end
    await asyncio.sleep(0)
    second.task.cancel()
    await asyncio.wait([first.task, second.task])
    await asyncio.sleep(0)
    assert third.is_in


async def test_whenever_callers_leave_every_turn_comes_back() -> None:
    draw = random.Random(7)  # noqa: S311 - a test's, the same each time
    gate = Gate(3, queue=10)
    inside = most = 0

    async def call() -> None:
        nonlocal inside, most
        async with gate:
            inside += 1
            most = max(most, inside)
            try:
                for _ in range(draw.randrange(5)):
                    await asyncio.sleep(0)
            finally:
                inside -= 1

    tasks: list[asyncio.Task[None]] = []
    for _ in range(5000):
        tasks.append(asyncio.ensure_future(call()))
        await asyncio.sleep(0)
        if draw.random() < 0.5:
            draw.choice(tasks[-12:]).cancel()
    await asyncio.wait(tasks)
    assert (inside, most, gate.waiting) == (0, 3, 0)
    assert [each.is_in for each in await callers_at(gate, 4)] == [True, True, True, False]


def test_shares_grow_with_the_pool_unless_they_are_set() -> None:
    def limit(access: int, **given: object) -> int:
        settings = Settings(_env_file=None, pool_size=3, pool_overflow=2, **given)  # type: ignore[arg-type] # so too in config
        return Admission(settings).gate(access).limit  # type: ignore[arg-type] # an enum's value

    assert [limit(access) for access in (1, 2, 3)] == [20, 20, 5]
    assert [limit(access, max_reads=7, max_writes=8, max_admin=9) for access in (1, 2, 3)] == [
        *(7, 8, 9)
    ]


def test_a_method_whose_access_is_not_stated_has_no_gate() -> None:
    with pytest.raises(KeyError):
        Admission(Settings(_env_file=None)).gate(0)  # type: ignore[arg-type] # an enum's value


def create_tag(client: Client) -> asyncio.Future[object]:
    request = tags_pb2.CreateTagsRequest(names=["a"])
    return asyncio.ensure_future(outcome_of(client.tags.CreateTags(request, timeout=LONG)))


async def test_writes_that_wait_are_bounded_and_keep_nobody_else_waiting(
    serve: Serve, database_url: str
) -> None:
    """One write waits for a lock and has all of its share; one waits for it; others are refused."""
    bounds = {"max_writes": 1, "call_queue": 1, "lock_timeout": 0, "statement_timeout": 0}
    async with serve(database_url, **bounds) as client:

        async def is_serving() -> bool:
            asked = health_pb2.HealthCheckRequest()
            health: health_pb2.HealthCheckResponse
            health = await client.health.Check(asked, timeout=LONG)
            return health.status == health.SERVING

        await until(is_serving)
        async with locked_table(database_url, "tags"):
            first = create_tag(client)
            await until_waiting_for_a_lock(database_url)
            calls = [create_tag(client) for _ in range(3)]
            await until(lambda: sum(call.done() for call in calls) == 2)
            refusals = [call.result() for call in calls if call.done()]
            for refusal in refusals:
                assert isinstance(refusal, Refusal)
                assert (refusal.what, refusal.retry_after) == (OVERLOADED, 0.5)
            # Who asks for health, reads or administers has a share that nobody else takes.
            assert await is_serving()
            await client.users.CountUsers(pb.CountUsersRequest(), timeout=LONG)
            await client.credits.AuditCredits(credits_pb2.AuditCreditsRequest(), timeout=LONG)
        answers = await asyncio.gather(first, *calls)
    assert sum(isinstance(answer, tags_pb2.CreateTagsResponse) for answer in answers) == 2


async def test_a_deadline_that_passes_in_the_queue_says_so(serve: Serve, database_url: str) -> None:
    bounds = {"max_writes": 1, "call_queue": 1, "lock_timeout": 0, "default_deadline": 0.3}
    async with serve(database_url, **bounds) as client, locked_table(database_url, "tags"):
        request = tags_pb2.CreateTagsRequest(names=["a"])
        first = asyncio.ensure_future(outcome_of(client.tags.CreateTags(request, timeout=LONG)))
        await until_waiting_for_a_lock(database_url)
        # Without a deadline of its own, it has the default.
        refusal = await refusal_of(client.tags.CreateTags(request))
        first.cancel()
        await asyncio.wait([first])
    assert refusal.what == (Code.DEADLINE_EXCEEDED, "byline/OVERLOADED", ("", ""))


async def test_calls_that_wait_for_a_turn_are_answered_before_the_server_ends(
    serve: Serve, database_url: str
) -> None:
    async with serve(database_url, max_writes=1, call_queue=5) as client:
        async with locked_table(database_url, "tags"):
            calls = [create_tag(client)]
            await until_waiting_for_a_lock(database_url)
            calls += [create_tag(client) for _ in range(5)]
            # They have been taken: one more is refused.
            assert isinstance(await create_tag(client), Refusal)
        answers = await asyncio.gather(*calls)
    assert not [answer for answer in answers if isinstance(answer, Refusal)]
