"""Rows that are looked up at once by id: who is read with whom, and what each is told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from storage import lookups, users
from storage.errors import DatabaseDown, NotFound, PoolTimeout
from storage.lookups import Lookups
from storage.usage import Usage, Wait, usage
from tests import factories
from tests.differences import Difference, differs
from tests.onlookers import end_connections
from tests.processes import until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from storage.database import Database
    from storage.sessions import Read
    from storage.users import UserRow
    from tests.conftest import Open


class Reads:
    """Reads users when it is let, and notes which at once."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.failure: Exception | None = None
        self.go_on = asyncio.Event()

    async def batch_get(self, read: Read, ids: Sequence[int]) -> Mapping[int, UserRow]:
        self.batches.append(list(ids))
        await self.go_on.wait()
        if self.failure is not None:
            raise self.failure
        return await users.batch_get(read, ids)


@pytest.fixture
def reads() -> Reads:
    return Reads()


@pytest.fixture
def looked_up(db: Database, reads: Reads) -> Lookups[UserRow]:
    return Lookups(db, "user", reads.batch_get)


async def ask(looked_up: Lookups[UserRow], *ids: int) -> list[asyncio.Task[UserRow]]:
    """Asks for users as so many calls would, and returns once all of them have."""
    tasks = [asyncio.create_task(looked_up.get(each)) for each in ids]
    await asyncio.sleep(0)
    return tasks


async def ids_of(tasks: Sequence[asyncio.Task[UserRow]]) -> list[int]:
    return [row.id for row in await asyncio.gather(*tasks)]


async def test_what_is_asked_for_while_a_read_is_under_way_is_read_together(
    db: Database, looked_up: Lookups[UserRow], reads: Reads
) -> None:
    first, *others = [each.id for each in await factories.add_users(db, 4)]
    asked = await ask(looked_up, first, *others, others[0])
    reads.go_on.set()
    assert await ids_of(asked) == [first, *others, others[0]]
    assert reads.batches == [[first], [*others, others[0]]]


async def test_whoever_comes_later_waits_for_nobody(
    db: Database, looked_up: Lookups[UserRow], reads: Reads
) -> None:
    (user,) = await factories.add_users(db, 1)
    reads.go_on.set()
    for _ in range(3):
        assert await looked_up.get(user.id) == user
    assert reads.batches == [[user.id]] * 3


async def test_one_statement_reads_so_many_at_most(
    looked_up: Lookups[UserRow], reads: Reads
) -> None:
    asked = await ask(looked_up, *range(1, 2 * lookups.MOST + 2))
    reads.go_on.set()
    await asyncio.gather(*asked, return_exceptions=True)
    assert [len(batch) for batch in reads.batches] == [1, lookups.MOST, lookups.MOST]


async def test_a_missing_row_is_missing_for_those_alone_who_ask_for_it(
    db: Database, looked_up: Lookups[UserRow], reads: Reads
) -> None:
    (user,) = await factories.add_users(db, 1)
    asked = await ask(looked_up, user.id, 404, user.id, 405)
    reads.go_on.set()
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert [str(each) for each in outcomes if isinstance(each, NotFound)] == [
        "user 404 does not exist",
        "user 405 does not exist",
    ]
    assert outcomes[0] == outcomes[2] == user


@pytest.mark.parametrize("leaver", range(3))
async def test_a_caller_who_leaves_takes_nothing_from_the_others(
    db: Database, looked_up: Lookups[UserRow], reads: Reads, leaver: int
) -> None:
    ids = [each.id for each in await factories.add_users(db, 3)]
    asked = await ask(looked_up, *ids)
    asked[leaver].cancel()
    await asyncio.wait([asked[leaver]])
    reads.go_on.set()
    staying = [task for task in asked if task is not asked[leaver]]
    assert await ids_of(staying) == [each for each in ids if each != ids[leaver]]
    assert asked[leaver].cancelled()


async def test_a_row_that_nobody_waits_for_any_more_is_not_read(
    db: Database, looked_up: Lookups[UserRow], reads: Reads
) -> None:
    first, left = await factories.add_users(db, 2)
    asked = await ask(looked_up, first.id, left.id)
    asked[1].cancel()
    reads.go_on.set()
    await asyncio.wait(asked)
    assert await looked_up.get(first.id) == first
    assert reads.batches == [[first.id]] * 2


async def test_a_row_is_as_it_was_no_earlier_than_when_it_was_asked_for(
    db: Database, looked_up: Lookups[UserRow], reads: Reads
) -> None:
    (user,) = await factories.add_users(db, 1)
    reads.go_on.set()
    (early,) = await ask(looked_up, user.id)
    async with db.transaction() as tx:
        await users.update(tx, user.id, {"full_name": "Ada"})
    (late,) = await ask(looked_up, user.id)
    await early
    assert (await late).full_name == "Ada"


async def test_whoever_was_to_be_read_hears_what_went_wrong_and_nobody_after(
    db: Database, looked_up: Lookups[UserRow], reads: Reads
) -> None:
    (user,) = await factories.add_users(db, 1)
    reads.failure = DatabaseDown("it is away")
    asked = await ask(looked_up, *[user.id] * 3)
    reads.go_on.set()
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(each, DatabaseDown) for each in outcomes)
    reads.failure = None
    assert await looked_up.get(user.id) == user


@differs(Difference.NO_SERVER)
async def test_a_connection_that_was_ended_is_replaced(
    db: Database, db_url: str, looked_up: Lookups[UserRow], reads: Reads
) -> None:
    (user,) = await factories.add_users(db, 1)
    asked = await ask(looked_up, *[user.id] * 3)
    await until(lambda: bool(reads.batches))
    await end_connections(db_url)
    reads.go_on.set()
    assert await ids_of(asked) == [user.id] * 3


async def test_each_caller_is_told_what_it_used_of_the_database(
    db: Database, looked_up: Lookups[UserRow], reads: Reads
) -> None:
    (user,) = await factories.add_users(db, 1)
    uses = [Usage() for _ in range(3)]

    async def call(use: Usage) -> None:
        usage.set(use)
        await looked_up.get(user.id)

    calls = [asyncio.create_task(call(use)) for use in uses]
    await until(lambda: bool(reads.batches))
    reads.go_on.set()
    await asyncio.gather(*calls)
    assert [(use.statements, len(use.sent)) for use in uses] == [(1, 1)] * 3
    assert all(use.database > 0 for use in uses)


async def test_whoever_leaves_while_no_connection_is_free_waited_for_the_pool(
    opened: Open, reads: Reads
) -> None:
    small = opened(size=1, overflow=0)
    looked_up = Lookups(small, "user", reads.batch_get)
    uses = [Usage(), Usage()]

    async def call(use: Usage) -> None:
        usage.set(use)
        await looked_up.get(1)

    async with small.read():
        calls = [asyncio.create_task(call(use)) for use in uses]
        await until(lambda: uses[0].waiting_for is Wait.POOL)
        for each in reversed(calls):
            each.cancel()
        await asyncio.wait(calls)
    assert [use.waiting_for for use in uses] == [Wait.POOL] * 2


async def test_no_connection_in_time_is_told_to_all(opened: Open, reads: Reads) -> None:
    small = opened(size=1, overflow=0, wait=0.01)
    looked_up = Lookups(small, "user", reads.batch_get)
    async with small.read():
        outcomes = await asyncio.gather(*await ask(looked_up, 1, 2), return_exceptions=True)
    assert [type(each) for each in outcomes] == [PoolTimeout] * 2
