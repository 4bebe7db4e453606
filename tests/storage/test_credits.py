"""How transfers begin, and what they need of the accounts."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from storage import credits, users
from storage.accounts import MOST
from storage.errors import (
    Contention,
    HasCredits,
    InactiveUser,
    InsufficientCredits,
    LinkedFailed,
    NotFound,
    Overflow,
    StorageError,
    Unexpected,
)
from storage.models import EntryKind
from storage.moments import SECOND
from storage.transfers import State, TransferRow
from tests import factories
from tests.factories import grant, hold, make, transfer
from tests.ledgers import balances, outcome_of
from tests.onlookers import looking_on, until_waiting_for_a_lock
from tests.statements import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.credits import Operation, Outcome
    from storage.database import Database

NOBODY = 10**12


async def make_all(db: Database, *operations: Operation, atomic: bool = False) -> list[Outcome]:
    async with db.transaction() as tx:
        return await credits.make_all(tx, operations, atomic=atomic)


async def deactivate(db: Database, user_id: int) -> None:
    async with db.transaction() as tx:
        await users.update(tx, user_id, {"is_active": False})


async def delete(db: Database, user_id: int) -> None:
    async with db.transaction() as tx:
        await users.delete(tx, user_id)


async def purge_inactive(db: Database) -> None:
    async with db.transaction() as tx:
        await users.purge(tx, users.Filter(is_active=False))


def told(outcomes: Sequence[Outcome]) -> list[Any]:
    """The amounts of what was made, and what the others were refused with."""
    return [each.amount if isinstance(each, TransferRow) else type(each) for each in outcomes]


async def test_a_user_begins_with_nothing(db: Database) -> None:
    user = await factories.add_user(db)
    assert await balances(db, user.id) == [(0, 0)]


async def test_nobody_has_no_balance(db: Database) -> None:
    with pytest.raises(NotFound, match=f"user {NOBODY}"):
        await balances(db, NOBODY)


async def test_a_grant_is_what_a_user_has_more(db: Database) -> None:
    (ada,) = await factories.add_users_with(db, 5)
    made = await make(db, grant(ada, 7, "Welcome."))
    assert (made.kind, made.from_user_id, made.to_user_id) == (EntryKind.GRANT, None, ada)
    assert (made.amount, made.memo, made.state) == (7, "Welcome.", State.SETTLED)
    assert await balances(db, ada) == [(12, 0)]


async def test_a_transfer_takes_from_one_what_it_gives_to_another(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, 10, 1)
    made = await make(db, transfer(ada, bob, 10, "Rent."))
    assert (made.kind, made.from_user_id, made.to_user_id) == (EntryKind.TRANSFER, ada, bob)
    assert (made.amount, made.memo, made.state) == (10, "Rent.", State.SETTLED)
    assert await balances(db, ada, bob) == [(0, 0), (11, 0)]


async def test_a_hold_sets_aside_what_it_gives_nobody_yet(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, 10, 0)
    made = await make(db, hold(ada, bob, 4))
    assert (made.kind, made.state, made.amount) == (EntryKind.HOLD, State.PENDING, 4)
    assert made.expires_at is not None
    assert made.expires_at - made.created_at == 3600 * SECOND
    assert await balances(db, ada, bob) == [(6, 4), (0, 0)]


@pytest.mark.parametrize("begin", [transfer, hold])
async def test_accounts_change_at_the_moment_that_the_ledger_has(db: Database, begin: Any) -> None:  # noqa: ANN401 - two factories
    ada, bob = await factories.add_users_with(db, 10, 0)
    made = await make(db, begin(ada, bob, 4))
    async with db.read() as read:
        assert (await credits.get_balance(read, ada)).updated_at == made.created_at


@pytest.mark.parametrize("begin", [transfer, hold])
async def test_what_is_held_cannot_be_spent(db: Database, begin: Any) -> None:  # noqa: ANN401 - two factories
    ada, bob = await factories.add_users_with(db, 10, 0)
    await make(db, hold(ada, bob, 4))
    with pytest.raises(InsufficientCredits) as refused:
        await make(db, begin(ada, bob, 7))
    error = refused.value
    assert (error.user_id, error.available, error.required) == (ada, 6, 7)
    assert await balances(db, ada, bob) == [(6, 4), (0, 0)]


async def test_one_who_is_not_there_is_named(db: Database) -> None:
    (ada,) = await factories.add_users_with(db, 10)
    for operation in (
        grant(NOBODY, 1),
        transfer(NOBODY, ada, 1),
        transfer(ada, NOBODY, 1),
        hold(ada, NOBODY, 1),
        hold(NOBODY, ada, 1),
    ):
        with pytest.raises(NotFound) as refused:
            await make(db, operation)
        assert (refused.value.resource, refused.value.name) == ("user", str(NOBODY))


async def test_one_who_is_inactive_can_neither_send_nor_receive(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, 10, 10)
    await deactivate(db, bob)
    for operation in (
        grant(bob, 1),
        transfer(bob, ada, 1),
        transfer(ada, bob, 1),
        hold(ada, bob, 1),
        hold(bob, ada, 1),
    ):
        with pytest.raises(InactiveUser) as refused:
            await make(db, operation)
        assert refused.value.user_id == bob
    assert await balances(db, ada, bob) == [(10, 0), (10, 0)]


@pytest.mark.parametrize("held", [0, 1, MOST - 1])
async def test_nobody_can_have_more_than_can_be_counted(db: Database, held: int) -> None:
    ada, bob, cleo = await factories.add_users_with(db, MOST - 1, 2, 0)
    if held:
        await make(db, hold(ada, cleo, held))
    for operation in (grant(ada, 2), transfer(bob, ada, 2), grant(ada, MOST)):
        with pytest.raises(Overflow, match=f"user {ada}"):
            await make(db, operation)
    await make(db, transfer(bob, ada, 1))
    async with db.read() as read:
        row = await credits.get_balance(read, ada)
    assert row.available + row.held == MOST


async def test_a_batch_is_made_in_order_each_as_if_sent_alone(db: Database) -> None:
    ada, bob, cleo = await factories.add_users_with(db, 10, 0, 0)
    outcomes = await make_all(
        db,
        transfer(bob, cleo, 1),
        transfer(ada, bob, 10),
        transfer(ada, cleo, 1),
        transfer(bob, cleo, 4),
        transfer(bob, NOBODY, 1),
        transfer(bob, ada, 6),
    )
    no = InsufficientCredits
    assert told(outcomes) == [no, 10, no, 4, NotFound, 6]
    assert await balances(db, ada, bob, cleo) == [(6, 0), (0, 0), (4, 0)]


async def test_a_part_of_a_batch_that_fails_leaves_the_rest(db: Database) -> None:
    ada, bob, cleo = await factories.add_users_with(db, 10, 0, 0)
    await deactivate(db, cleo)
    batch = [transfer(ada, bob, 3), transfer(ada, cleo, 3), transfer(ada, bob, 4)]
    assert told(await make_all(db, *batch)) == [3, InactiveUser, 4]
    assert await balances(db, ada, bob, cleo) == [(3, 0), (7, 0), (0, 0)]


@pytest.mark.parametrize("wrong", range(3))
async def test_an_atomic_batch_is_made_whole_or_not_at_all(db: Database, wrong: int) -> None:
    ada, bob = await factories.add_users_with(db, 10, 0)
    batch = [transfer(ada, bob, 2) for _ in range(3)]
    assert told(await make_all(db, *batch, atomic=True)) == [2, 2, 2]
    assert await balances(db, ada, bob) == [(4, 0), (6, 0)]
    batch = [transfer(bob, ada, 1) for _ in range(4)]
    batch[wrong] = batch[3] = transfer(bob, ada, 100)
    outcomes = await make_all(db, *batch, atomic=True)
    assert told(outcomes) == [
        InsufficientCredits if at == wrong else LinkedFailed for at in range(4)
    ]
    assert {each.index for each in outcomes if isinstance(each, LinkedFailed)} == {wrong}
    assert await balances(db, ada, bob) == [(4, 0), (6, 0)]


async def test_each_of_a_thousand_has_its_own_transfer(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, 10**6, 10**6)
    batch = [
        transfer(*((ada, bob) if number % 3 else (bob, ada)), number, f"number {number}")
        for number in range(1, 1001)
    ]
    outcomes = await make_all(db, *batch)
    kept = await run(db, "SELECT id, from_user_id, to_user_id, amount, memo FROM ledger")
    rows = {row.id: tuple(row) for row in kept}
    ids = []
    for operation, outcome in zip(batch, outcomes, strict=True):
        assert isinstance(outcome, TransferRow)
        asked = operation.from_user_id, operation.to_user_id, operation.amount, operation.memo
        assert rows[outcome.id] == (outcome.id, *asked)
        ids.append(outcome.id)
    assert ids == sorted(ids)
    assert len(await balances(db, ada, bob)) == 2


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE credit_accounts SET available = -1",
        "UPDATE credit_accounts SET held = -1",
        "UPDATE ledger SET amount = 1",
        "DELETE FROM ledger",
        *(
            f"INSERT INTO ledger (kind, from_user_id, to_user_id, amount, memo, hold_id) {entry}"
            for entry in (
                "VALUES ('grant', NULL, 1, 0, '', NULL)",
                "VALUES ('gift', NULL, 1, 1, '', NULL)",
                "VALUES ('grant', 2, 1, 1, '', NULL)",
                "VALUES ('transfer', NULL, 1, 1, '', NULL)",
                "VALUES ('transfer', 1, 1, 1, '', NULL)",
                "VALUES ('transfer', 1, 2, 1, '', 1)",
                "VALUES ('hold', 1, 2, 1, '', NULL)",
                "VALUES ('capture', 1, 2, 1, '', NULL)",
                "VALUES ('release', 1, 2, 1, '', 1), ('expiry', 1, 2, 1, '', 1)",
            )
        ),
    ],
)
async def test_the_database_itself_refuses(db: Database, statement: str) -> None:
    await factories.add_users_with(db, 10)
    with pytest.raises(Unexpected):
        await run(db, statement)


@pytest.mark.parametrize("purge", [False, True])
async def test_one_who_has_credits_or_open_holds_cannot_go(db: Database, *, purge: bool) -> None:
    """Neither alone nor among others, and whether they are held of or held for."""
    rich, sender, receiver = await factories.add_users_with(db, 1, 1, 0)
    await make(db, hold(sender, receiver, 1))
    for user_id in (rich, sender, receiver):
        await deactivate(db, user_id)
        with pytest.raises(HasCredits):
            await (purge_inactive(db) if purge else delete(db, user_id))
    assert await balances(db, rich, sender, receiver) == [(1, 0), (0, 1), (0, 0)]


async def test_the_ledger_keeps_the_id_of_one_who_went_with_empty_hands(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, 5, 0)
    await make(db, transfer(ada, bob, 5))
    await delete(db, ada)
    assert await balances(db, bob) == [(5, 0)]
    kept = await run(db, "SELECT to_user_id, from_user_id FROM ledger ORDER BY id")
    assert [tuple(row) for row in kept] == [(ada, None), (bob, ada)]
    with pytest.raises(NotFound, match=f"user {ada}"):
        await make(db, transfer(bob, ada, 1))


async def test_a_deletion_waits_for_a_transfer_and_sees_what_it_did(
    db: Database, shared_url: str
) -> None:
    ada, bob = await factories.add_users_with(db, 5, 0)
    async with db.transaction() as tx:
        await credits.make(tx, transfer(ada, bob, 5))
        deleting = asyncio.create_task(delete(db, bob))
        await until_waiting_for_a_lock(shared_url)
    with pytest.raises(HasCredits):
        await deleting
    assert await balances(db, bob) == [(5, 0)]


async def test_a_transfer_waits_for_a_deletion_and_finds_nobody(
    db: Database, shared_url: str
) -> None:
    ada, bob = await factories.add_users_with(db, 5, 0)
    async with db.transaction() as tx:
        await users.delete(tx, bob)
        making = asyncio.create_task(make(db, transfer(ada, bob, 5)))
        await until_waiting_for_a_lock(shared_url)
    with pytest.raises(NotFound, match=f"user {bob}"):
        await making
    assert await balances(db, ada) == [(5, 0)]


async def test_transfers_wait_for_each_other_and_none_is_lost(
    db: Database, shared_url: str
) -> None:
    ada, bob = await factories.add_users_with(db, 5, 0)
    async with db.transaction() as tx:
        await credits.make(tx, transfer(ada, bob, 3))
        second = asyncio.create_task(outcome_of(make(db, transfer(ada, bob, 3))))
        await until_waiting_for_a_lock(shared_url)
    refused = await second
    assert isinstance(refused, InsufficientCredits)
    assert refused.available == 2
    assert await balances(db, ada, bob) == [(2, 0), (3, 0)]


async def test_accounts_are_locked_in_the_order_of_their_ids(db: Database, shared_url: str) -> None:
    """Whoever waits for the first of them has not locked the second."""
    first, second = await factories.add_users_with(db, 5, 5)
    for sender, receiver in ((first, second), (second, first)):
        async with looking_on(shared_url) as other:
            async with other.transaction():
                await other.lock("credit_accounts", user_id=first)
                making = asyncio.create_task(make(db, transfer(sender, receiver, 1)))
                await until_waiting_for_a_lock(shared_url)
                # It would be a deadlock.
                await other.lock("credit_accounts", user_id=second)
            await making
    assert await balances(db, first, second) == [(5, 0), (5, 0)]


async def test_opposite_transfers_at_once_neither_deadlock_nor_lose(db: Database) -> None:
    ids = await factories.add_users_with(db, *[100] * 4)
    draw = random.Random(0)  # noqa: S311 - a race, no secret
    errors: list[StorageError] = []

    async def call() -> None:
        for _ in range(25):
            sender, receiver = draw.sample(ids, 2)
            outcome = await outcome_of(make(db, transfer(sender, receiver, draw.randint(1, 60))))
            if isinstance(outcome, StorageError):
                errors.append(outcome)

    await asyncio.gather(*(call() for _ in range(12)))
    assert {type(each) for each in errors} <= {InsufficientCredits}
    assert sum(available for available, _ in await balances(db, *ids)) == 400


async def test_batches_over_the_same_accounts_in_any_order_never_deadlock(db: Database) -> None:
    ids = await factories.add_users_with(db, *[1000] * 10)

    async def call(seed: int) -> list[Outcome]:
        draw = random.Random(seed)  # noqa: S311 - a race, no secret
        pairs = [draw.sample(ids, 2) for _ in range(50)]
        return await make_all(db, *(transfer(one, other, 5) for one, other in pairs))

    outcomes = await asyncio.gather(*map(call, range(40)))
    assert not any(isinstance(each, Contention) for batch in outcomes for each in batch)
    assert sum(available for available, _ in await balances(db, *ids)) == 10_000
