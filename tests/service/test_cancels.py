"""Callers who leave at any moment: nothing of theirs stays, in the pool or at the database."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from byline.v1 import credits_pb2, posts_pb2, resources_pb2, tags_pb2
from byline.v1 import users_pb2 as pb
from google.protobuf.field_mask_pb2 import FieldMask

from tests import factories
from tests.onlookers import locked_user, until_connections_are, until_idle
from tests.processes import until
from tests.seen import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from service.config import Settings
    from tests.clients import Client
    from tests.seen import Seen

# Under way at once: more than are taken on, so that some leave a queue.
CALLERS = 100
# Seconds within which callers leave: about as long as most of their calls take.
LONGEST = 0.2
LATE = grpc.StatusCode.DEADLINE_EXCEEDED
BOUNDS = {
    "pool_size": 3,
    "pool_overflow": 2,
    "max_writes": 20,
    "call_queue": 5,
    # gRPC counts those cancelled on a connection until they have ended, and would refuse others.
    "max_streams": 10_000,
}
# Those of the pool, and that of health.
CONNECTIONS = 6


def all_sorts(client: Client, ada: int, bob: int) -> Sequence[Callable[[], Any]]:
    """Begins a call of each sort: reads, writes, snapshots, and those that are made together."""
    renamed = resources_pb2.User(id=ada, full_name="Ada")
    return [
        lambda: client.users.GetUser(pb.GetUserRequest(id=ada)),
        lambda: client.users.ListUsers(pb.ListUsersRequest(page_size=10)),
        lambda: client.users.UpdateUser(
            pb.UpdateUserRequest(user=renamed, update_mask=FieldMask(paths=["full_name"]))
        ),
        lambda: client.posts.CreatePost(
            posts_pb2.CreatePostRequest(author_id=bob, title="Notes", tags=["a", "b"])
        ),
        lambda: client.tags.CreateTags(tags_pb2.CreateTagsRequest(names=["a", "b", "c"])),
        lambda: client.credits.Transfer(
            credits_pb2.TransferRequest(from_user_id=ada, to_user_id=bob, amount=1)
        ),
        lambda: client.credits.AuditCredits(credits_pb2.AuditCreditsRequest()),
    ]


async def nothing_is_on_loan(seen: Seen) -> bool:
    names = ("byline_pool_checked_out", "byline_pool_waiting")
    return [await seen.value(name) for name in names] == [0, 0]


async def nothing_is_under_way(seen: Seen) -> bool:
    return await seen.value("grpc_server_in_flight") == 0


@pytest.mark.parametrize("calls", [500, pytest.param(10_000, marks=pytest.mark.long)])
async def test_callers_who_leave_at_any_moment_leave_nothing_behind(
    settings: Settings, database_url: str, calls: int
) -> None:
    async with serving(settings, database_url, **BOUNDS) as seen:
        client = seen.client
        ada, bob = await factories.create_users_with(client, 10**9, 0)
        begin = all_sorts(client, ada, bob)
        draw = random.Random(3)  # noqa: S311 - a race, no secret
        ended = Counter[str]()
        left = calls

        async def call_and_leave() -> None:
            nonlocal left
            while left:
                left -= 1
                call = draw.choice(begin)()
                if draw.randrange(10):
                    asyncio.get_running_loop().call_later(draw.random() * LONGEST, call.cancel)
                ended[(await call.code()).name] += 1

        await asyncio.gather(*(call_and_leave() for _ in range(CALLERS)))
        over = time.perf_counter()

        await until(partial(nothing_is_on_loan, seen))
        returned = time.perf_counter() - over
        await until_idle(database_url)
        await until_connections_are(CONNECTIONS, database_url)
        print(f"{ended}; all connections were back after {returned:.3f} s")  # noqa: T201 - for who asks for it
        # Every turn is free again: as many as are taken on at once are.
        await asyncio.gather(
            *(
                client.tags.CreateTags(tags_pb2.CreateTagsRequest(names=["d"]))
                for _ in range(BOUNDS["max_writes"])
            )
        )
        audit = await client.credits.AuditCredits(credits_pb2.AuditCreditsRequest())
    assert not audit.discrepancies
    # Most did leave, and some did not.
    assert ended[grpc.StatusCode.CANCELLED.name] > calls / 10
    assert ended[grpc.StatusCode.OK.name] > 0


async def test_callers_who_run_out_of_time_at_a_lock_are_told_so_whenever_that_is(
    settings: Settings, database_url: str
) -> None:
    """The server may have stopped their statement by then, or be about to."""
    draw = random.Random(4)  # noqa: S311 - a race, no secret
    async with serving(settings, database_url, pool_size=6) as seen:
        user = await factories.create_user(seen.client)
        request = pb.DeleteUserRequest(id=user.id)

        async def run_out_of_time() -> None:
            for _ in range(40):
                timeout = draw.random() * LONGEST
                assert await seen.client.users.DeleteUser(request, timeout=timeout).code() == LATE

        async with locked_user(database_url, user.id):
            await asyncio.gather(*(run_out_of_time() for _ in range(8)))
            await until(partial(nothing_is_under_way, seen))

        async def told(**labels: str) -> float:
            name = "grpc_server_handled_total"
            return await seen.value(name, grpc_method="DeleteUser", **labels) or 0

        # Those that the client gave up just before.
        left = await told(grpc_code=grpc.StatusCode.CANCELLED.name)
        assert await told(grpc_code=LATE.name) + left == await told() > 0
