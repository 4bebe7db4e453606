"""The audit: clean when all is well, and each kind of damage found and named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from storage import audit, credits, holds, users
from storage.accounts import MOST
from storage.audit import Discrepancy, Kind
from storage.errors import Overflow
from tests import factories
from tests.factories import grant, hold, make, transfer
from tests.statements import run

if TYPE_CHECKING:
    from storage.audit import Audit
    from storage.database import Database

ADA, BOB = 1, 2
OPEN, ENDED = 3, 5


async def audited(db: Database) -> Audit:
    async with db.read(snapshot=True) as read:
        return await audit.audit(read)


@pytest.fixture
async def world(db: Database) -> Database:
    """Ada has 100, of which 4 are held for bob, who has 1; a hold was captured, a user is gone."""
    ada, bob, cleo = await factories.add_users_with(db, 98, 0, 0)
    assert (ada, bob) == (ADA, BOB)
    # Alone: MariaDB leaves ids out where it gives several at a time.
    await make(db, grant(cleo, 4))
    assert (await make(db, hold(ada, bob, 4))).id == OPEN
    await make(db, transfer(cleo, ada, 3))
    assert (await make(db, hold(cleo, bob, 1))).id == ENDED
    async with db.transaction() as tx:
        await holds.capture(tx, ENDED)
        await users.delete(tx, cleo)
    return db


async def test_what_all_is_well_with_is_counted(world: Database) -> None:
    assert await audited(world) == (2, 5, 102, 102, [])


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            "UPDATE credit_accounts SET available = available + 7 WHERE user_id = 1",
            [Discrepancy(Kind.BALANCE, ADA, 0, 101, 108), Discrepancy(Kind.TOTAL, 0, 0, 102, 109)],
        ),
        (
            (
                "UPDATE credit_accounts SET available = available + 1, held = held - 1"
                " WHERE user_id = 1"
            ),
            [Discrepancy(Kind.HELD, ADA, 0, 4, 3)],
        ),
        (
            "DELETE FROM open_holds",
            [Discrepancy(Kind.HELD, ADA, 0, 0, 4), Discrepancy(Kind.OPEN_HOLD, ADA, OPEN, 4, 0)],
        ),
        (
            "UPDATE open_holds SET to_user_id = 9",
            [Discrepancy(Kind.OPEN_HOLD, ADA, OPEN, 4, 4)],
        ),
        (
            "INSERT INTO open_holds VALUES (99, 2, 1, 5, CURRENT_TIMESTAMP)",
            [Discrepancy(Kind.HELD, BOB, 0, 5, 0), Discrepancy(Kind.OPEN_HOLD, BOB, 99, 0, 5)],
        ),
        (
            "INSERT INTO ledger (kind, to_user_id, amount, memo) VALUES ('grant', 77, 5, '')",
            [
                Discrepancy(Kind.DELETED_USER, 77, 0, 0, 5),
                Discrepancy(Kind.TOTAL, 0, 0, 107, 102),
            ],
        ),
        (
            (
                "INSERT INTO ledger (kind, from_user_id, to_user_id, amount, memo, hold_id)"
                " VALUES ('release', 1, 2, 3, '', 1)"
            ),
            [Discrepancy(Kind.RESOLUTION, ADA, 1, 0, 3)],
        ),
        (
            (
                "INSERT INTO ledger (kind, from_user_id, to_user_id, amount, memo, hold_id)"
                " SELECT 'release', 1, 2, 3, '', transfer_id FROM open_holds"
            ),
            [
                Discrepancy(Kind.OPEN_HOLD, ADA, OPEN, 0, 4),
                Discrepancy(Kind.RESOLUTION, ADA, OPEN, 4, 3),
            ],
        ),
    ],
)
async def test_damage_is_found_and_named(
    world: Database, damage: str, expected: list[Discrepancy]
) -> None:
    await run(world, damage)
    found = (await audited(world)).discrepancies
    assert sorted(found) == sorted(expected)
    for each in found:
        assert str(each.found) in each.text or str(each.expected) in each.text
        assert each.user_id == 0 or str(each.user_id) in each.text or each.transfer_id


async def test_no_more_discrepancies_are_told_than_can_be_read(db: Database) -> None:
    await factories.add_many_users(db, audit.MOST_TOLD + 5)
    await run(db, "UPDATE credit_accounts SET available = 1")
    found = (await audited(db)).discrepancies
    assert len(found) == audit.MOST_TOLD
    assert found[-1].kind is Kind.TOTAL


async def test_all_that_can_be_counted_may_go_back_and_forth(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, MOST, 0)
    for sender, receiver in ((ada, bob), (bob, ada), (ada, bob)):
        await make(db, transfer(sender, receiver, MOST))
    assert await audited(db) == (2, 4, MOST, MOST, [])


async def test_a_sum_beyond_all_counting_is_said_to_be_so(db: Database) -> None:
    ada, bob = await factories.add_users_with(db, MOST, 0)
    assert (await audited(db)).total_granted == MOST
    async with db.transaction() as tx:
        await credits.make(tx, grant(bob, MOST))
    with pytest.raises(Overflow, match="all users"):
        await audited(db)
    assert ada
