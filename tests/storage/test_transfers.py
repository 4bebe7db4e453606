"""Lists of transfers: whose, in which direction and state, and page by page."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from storage import holds, transfers, users
from storage.keyset import Order
from storage.transfers import Direction, Filter, State
from tests import factories
from tests.factories import grant, hold, make, transfer
from tests.paging import in_order, listed, orders

if TYPE_CHECKING:
    from storage.database import Database

BY_ID = Order("id")
IN, OUT = Direction.INCOMING, Direction.OUTGOING


async def ids_of(db: Database, where: Filter, order: Order = BY_ID) -> list[int]:
    async with db.read() as read:
        rows = await listed(partial(transfers.list_page, read, where), order, limit=3)
    return [row.id for row in rows]


@pytest.fixture
async def world(db: Database) -> tuple[int, dict[tuple[Direction, State], list[int]]]:
    """A user, and the ids of their transfers of each direction and state, two of each."""
    ada, bob = await factories.add_users_with(db, 0, 0)
    made: dict[tuple[Direction, State], list[int]] = {
        (IN, State.SETTLED): [(await make(db, grant(ada, 100))).id],
        (OUT, State.SETTLED): [],
    }
    await make(db, grant(bob, 100))
    for _ in range(2):
        for direction, pair in {OUT: (ada, bob), IN: (bob, ada)}.items():
            begun = [(await make(db, hold(*pair, 1))).id for _ in range(3)]
            settled = (await make(db, transfer(*pair, 1))).id
            async with db.transaction() as tx:
                await holds.capture(tx, begun[0])
                await holds.release(tx, begun[1])
            expired = (await make(db, hold(*pair, 1, timedelta(microseconds=1)))).id
            ended = dict(zip((State.CAPTURED, State.RELEASED, State.PENDING), begun, strict=True))
            for state, number in {**ended, State.SETTLED: settled, State.EXPIRED: expired}.items():
                made.setdefault((direction, state), []).append(number)
    return ada, made


@pytest.mark.parametrize("order", orders("id"), ids=str)
@pytest.mark.parametrize("state", [None, *State])
@pytest.mark.parametrize("direction", [None, *Direction])
async def test_a_list_has_what_is_asked_for_and_nothing_else(
    db: Database,
    world: tuple[int, dict[tuple[Direction, State], list[int]]],
    direction: Direction | None,
    state: State | None,
    order: Order,
) -> None:
    user_id, made = world
    expected = [
        number
        for (its_direction, its_state), numbers in made.items()
        for number in numbers
        if direction in (None, its_direction) and state in (None, its_state)
    ]
    found = await ids_of(db, Filter(user_id, direction, state), order)
    assert expected
    assert found == sorted(expected, reverse=order.descending)


async def test_a_list_shows_each_as_it_is_alone(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, 100, 0)
    for _ in range(3):
        begun = await make(db, hold(ada, bob, 3))
        async with db.transaction() as tx:
            await holds.capture(tx, begun.id, 2)
    async with db.read() as read:
        for order in orders("id"):
            rows = await listed(partial(transfers.list_page, read, Filter(ada)), order, limit=2)
            assert rows == in_order(rows, order, {"id": lambda row: row.id})
            assert rows == [await transfers.get(read, row.id) for row in rows]


async def test_one_who_is_gone_has_the_transfers_that_they_had(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, 5, 0)
    made = await make(db, transfer(ada, bob, 5))
    async with db.transaction() as tx:
        await users.delete(tx, ada)
    assert await ids_of(db, Filter(ada, OUT)) == [made.id]
    assert await ids_of(db, Filter(10**12)) == []
