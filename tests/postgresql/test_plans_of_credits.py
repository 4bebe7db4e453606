"""How PostgreSQL plans the SQL of credits: once, for any number of transfers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage import credits
from tests import factories
from tests.factories import transfer
from tests.plans import FIRST_TIMES, PLANNED

if TYPE_CHECKING:
    from storage.database import Database

# Among few, finding any number of accounts costs the same.
USERS = 5_000


async def test_transfers_are_planned_once_however_many_they_are(db: Database) -> None:
    await factories.add_many_users(db, USERS)
    sender, receiver = await factories.add_users_with(db, 100, 0)
    sizes = [1] * FIRST_TIMES + [1, 2, 10]
    async with db.transaction() as tx:
        for size in sizes:
            await credits.make_all(tx, [transfer(sender, receiver, 1)] * size)
        told = {"like": "%credit_accounts%", "times": 2}
        planned = (await tx.execute(PLANNED, told)).all()
    # The one that locks the accounts, and the one that changes them.
    assert [row.custom_plans for row in planned] == [FIRST_TIMES] * 2
    assert all(row.generic_plans >= len(sizes) - FIRST_TIMES for row in planned)
