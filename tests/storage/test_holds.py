"""How holds end: captured, released or expired, and once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from storage import credits, holds, transfers, users
from storage.accounts import MOST
from storage.errors import AmountTooLarge, HoldResolved, InactiveUser, NotFound, Overflow
from storage.transfers import State, TransferRow
from tests import factories
from tests.differences import Difference, differs
from tests.factories import grant, hold, make, transfer
from tests.ledgers import balances, outcome_of
from tests.onlookers import looking_on, until_waiting_for_a_lock
from tests.processes import until
from tests.statements import run

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from storage.database import Database

    End = Callable[[Database, int], Coroutine[Any, Any, TransferRow]]

MOMENT = timedelta(microseconds=1)


async def capture(db: Database, transfer_id: int, amount: int | None = None) -> TransferRow:
    async with db.transaction() as tx:
        return await holds.capture(tx, transfer_id, amount)


async def release(db: Database, transfer_id: int) -> TransferRow:
    async with db.transaction() as tx:
        return await holds.release(tx, transfer_id)


async def release_expired(db: Database, limit: int = 1000) -> int:
    async with db.transaction() as tx:
        return await holds.release_expired(tx, limit)


async def get(db: Database, transfer_id: int) -> TransferRow:
    async with db.read() as read:
        return await transfers.get(read, transfer_id)


async def open_holds(db: Database) -> list[int]:
    return list((await run(db, "SELECT transfer_id FROM open_holds ORDER BY 1")).scalars())


@pytest.mark.parametrize("amount", [None, 1, 4])
async def test_a_capture_gives_to_the_receiver_and_the_rest_back(
    db: Database, amount: int | None
) -> None:
    ada, bob = await factories.add_users_with(db, 10, 0)
    made = await make(db, hold(ada, bob, 4))
    captured = await capture(db, made.id, amount)
    got = amount or 4
    assert (captured.state, captured.amount, captured.captured_amount) == (State.CAPTURED, 4, got)
    assert captured.resolved_at is not None
    assert captured.resolved_at >= captured.created_at
    assert captured == await get(db, made.id)
    async with db.read() as read:
        for user_id in (ada, bob):
            balance = await credits.get_balance(read, user_id)
            assert balance.updated_at == captured.resolved_at
    assert await balances(db, ada, bob) == [(10 - got, 0), (got, 0)]
    assert await open_holds(db) == []


async def test_a_release_gives_all_back(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, 10, 0)
    made = await make(db, hold(ada, bob, 4))
    released = await release(db, made.id)
    assert (released.state, released.captured_amount) == (State.RELEASED, 0)
    assert released == await get(db, made.id)
    assert await balances(db, ada, bob) == [(10, 0), (0, 0)]
    assert await open_holds(db) == []


async def test_more_than_is_held_cannot_be_captured(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, 10, 0)
    made = await make(db, hold(ada, bob, 4))
    with pytest.raises(AmountTooLarge) as refused:
        await capture(db, made.id, 5)
    assert (refused.value.held, refused.value.required) == (4, 5)
    assert await balances(db, ada, bob) == [(6, 4), (0, 0)]


@pytest.mark.parametrize("end", [capture, release])
async def test_a_hold_ends_once(db: Database, end: End) -> None:
    ada, bob = await factories.add_users_with(db, 20, 0)
    ended = {
        State.CAPTURED: (await capture(db, (await make(db, hold(ada, bob, 4))).id)).id,
        State.RELEASED: (await release(db, (await make(db, hold(ada, bob, 4))).id)).id,
        State.EXPIRED: (await make(db, hold(ada, bob, 4, MOMENT))).id,
        State.SETTLED: (await make(db, grant(ada, 1))).id,
    }
    before = await balances(db, ada, bob)
    for state, transfer_id in ended.items():
        with pytest.raises(HoldResolved) as refused:
            await end(db, transfer_id)
        assert (refused.value.transfer_id, refused.value.state) == (transfer_id, state)
    assert await balances(db, ada, bob) == before


async def test_what_no_caller_knows_as_a_transfer_is_not_found(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, 10, 0)
    await release(db, (await make(db, hold(ada, bob, 4))).id)
    (ending,) = (await run(db, "SELECT id FROM ledger WHERE hold_id IS NOT NULL")).scalars()
    for transfer_id in (ending, 10**12):
        for look in (capture, release, get):
            with pytest.raises(NotFound, match=f"transfer {transfer_id}"):
                await look(db, transfer_id)


@pytest.mark.parametrize("place", [0, 1])
async def test_the_inactive_give_and_get_nothing_but_have_theirs_back(
    db: Database, place: int
) -> None:
    ids = ada, bob = await factories.add_users_with(db, 10, 0)
    made = await make(db, hold(ada, bob, 4))
    async with db.transaction() as tx:
        await users.update(tx, ids[place], {"is_active": False})
    with pytest.raises(InactiveUser) as refused:
        await capture(db, made.id)
    assert refused.value.user_id == ids[place]
    assert (await release(db, made.id)).state is State.RELEASED
    assert await balances(db, ada, bob) == [(10, 0), (0, 0)]


async def test_nobody_is_given_more_than_can_be_counted(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, 2, MOST - 1)
    made = await make(db, hold(ada, bob, 2))
    with pytest.raises(Overflow, match=f"user {bob}"):
        await capture(db, made.id)
    assert (await capture(db, made.id, 1)).captured_amount == 1


async def test_an_expired_hold_is_over_with_nothing_running(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, 10, 0)
    made = await make(db, hold(ada, bob, 4, MOMENT))
    expired = await get(db, made.id)
    assert (expired.state, expired.resolved_at) == (State.EXPIRED, made.expires_at)
    async with db.read() as read:
        balance = await credits.get_balance(read, ada)
    assert (balance.available, balance.held) == (10, 0)
    assert balance.updated_at == made.expires_at
    assert await open_holds(db) == [made.id]


async def test_who_notes_that_a_hold_has_expired_changes_nothing_to_see(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, 10, 0)
    made = await make(db, hold(ada, bob, 4, MOMENT))
    async with db.read() as read:
        before = await get(db, made.id), await credits.get_balance(read, ada)
        assert await release_expired(db) == 1
        assert (await get(db, made.id), await credits.get_balance(read, ada)) == before
    assert await open_holds(db) == []
    assert await release_expired(db) == 0
    assert await balances(db, ada, bob) == [(10, 0), (0, 0)]


async def test_what_an_expired_hold_held_can_be_spent_at_once(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, 10, 0)
    await make(db, hold(ada, bob, 10, MOMENT))
    await make(db, transfer(ada, bob, 10))
    assert await open_holds(db) == []
    assert await balances(db, ada, bob) == [(0, 0), (10, 0)]


async def test_a_hold_expires_by_the_clock(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, 10, 0)
    made = await make(db, hold(ada, bob, 4, timedelta(seconds=1)))
    later = await make(db, hold(ada, bob, 1, timedelta(hours=1)))
    assert (made.state, later.state) == (State.PENDING, State.PENDING)

    async def has_expired() -> bool:
        return (await get(db, made.id)).state is State.EXPIRED

    await until(has_expired)
    assert await release_expired(db) == 1
    assert (await get(db, later.id)).state is State.PENDING
    assert await balances(db, ada, bob) == [(9, 1), (0, 0)]


async def test_expired_holds_are_noted_some_at_a_time_those_first_that_expired_first(
    db: Database,
) -> None:
    ada, bob = await factories.add_users_with(db, 10, 10)
    async with db.transaction() as tx:
        pairs = [(ada, bob), (bob, ada)] * 5
        await credits.make_all(tx, [hold(*pair, 1, MOMENT) for pair in pairs])
    noted = [await release_expired(db, 3) for _ in range(5)]
    assert sum(noted) == 10
    assert max(noted) <= 3
    assert await balances(db, ada, bob) == [(10, 0), (10, 0)]


@differs(Difference.ONE_WRITER)
async def test_accounts_that_others_have_locked_are_passed_over(
    db: Database, shared_url: str
) -> None:
    ada, bob, cleo = await factories.add_users_with(db, 10, 10, 0)
    await make(db, hold(ada, cleo, 1, MOMENT))
    await make(db, hold(bob, cleo, 1, MOMENT))
    async with looking_on(shared_url) as other, other.transaction():
        await other.lock("credit_accounts", user_id=ada)
        assert await release_expired(db) == 1
    assert await release_expired(db) == 1
    assert await balances(db, ada, bob) == [(10, 0), (10, 0)]


async def test_any_number_may_note_expired_holds_at_once(db: Database) -> None:
    ids = await factories.add_users_with(db, *[10] * 20)
    async with db.transaction() as tx:
        pairs = zip(ids, reversed(ids), strict=True)
        await credits.make_all(tx, [hold(*pair, 1, MOMENT) for pair in pairs])
    noted = await asyncio.gather(*(release_expired(db, 5) for _ in range(8)))
    while await release_expired(db):
        pass
    assert sum(noted) > 0
    assert await open_holds(db) == []
    assert await balances(db, *ids) == [(10, 0)] * 20


async def test_one_who_an_expired_hold_was_for_can_go(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, 10, 0)
    made = await make(db, hold(ada, bob, 4, MOMENT))
    async with db.transaction() as tx:
        await users.delete(tx, bob)
    assert await release_expired(db) == 1
    assert (await get(db, made.id)).to_user_id == bob
    assert await balances(db, ada) == [(10, 0)]


async def test_a_hold_that_many_would_end_at_once_ends_once(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, 1000, 0)
    for _ in range(10):
        before = await balances(db, ada, bob)
        made = await make(db, hold(ada, bob, 5))
        outcomes = await asyncio.gather(
            *(outcome_of(capture(db, made.id, number)) for number in range(1, 6)),
            *(outcome_of(release(db, made.id)) for _ in range(5)),
            release_expired(db),
        )
        ended = [each for each in outcomes if isinstance(each, TransferRow)]
        refused = [each for each in outcomes[:10] if not isinstance(each, TransferRow)]
        assert len(ended) == 1
        assert {type(each) for each in refused} == {HoldResolved}
        assert ended[0] == await get(db, made.id)
        got = ended[0].captured_amount
        (available, held), (had, _) = before
        assert await balances(db, ada, bob) == [(available - got, held), (had + got, 0)]


@pytest.mark.parametrize("end", [capture, release])
async def test_a_hold_that_expires_while_its_end_waits_has_expired(
    db: Database, shared_url: str, end: End
) -> None:
    ada, bob = await factories.add_users_with(db, 10, 0)
    async with looking_on(shared_url) as other:
        made = await make(db, hold(ada, bob, 4, timedelta(seconds=3)))

        async def has_expired() -> bool:
            return (await get(db, made.id)).state is State.EXPIRED

        async with other.transaction():
            await other.lock("credit_accounts", user_id=ada)
            ending = asyncio.create_task(end(db, made.id))
            await until_waiting_for_a_lock(shared_url)
            await until(has_expired)
    with pytest.raises(HoldResolved) as refused:
        await ending
    assert refused.value.state is State.EXPIRED
    assert await release_expired(db) == 1
    assert await balances(db, ada, bob) == [(10, 0), (0, 0)]


async def test_a_hold_about_to_expire_ends_once(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, 1000, 0)
    for _ in range(10):
        made = await make(db, hold(ada, bob, 5, timedelta(milliseconds=20)))
        outcomes = await asyncio.gather(
            *(outcome_of(capture(db, made.id)) for _ in range(5)),
            *(release_expired(db) for _ in range(5)),
        )
        ended = [each for each in outcomes if isinstance(each, TransferRow)]
        assert len(ended) <= 1

        async def is_over(hold_id: int = made.id) -> bool:
            return (await get(db, hold_id)).state is not State.PENDING

        await until(is_over)
        row = await get(db, made.id)
        assert row.state is (State.CAPTURED if ended else State.EXPIRED)
    await release_expired(db)
    async with db.read() as read:
        rows = [await credits.get_balance(read, user_id) for user_id in (ada, bob)]
    assert [(row.available, row.held) for row in rows] == await balances(db, ada, bob)
    assert sum(row.available for row in rows) == 1000
