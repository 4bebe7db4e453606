"""How PostgreSQL pages through the transfers of a user who has many."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from storage import transfers
from storage.keyset import Cursor, Window
from storage.transfers import Direction, Filter, State
from tests import factories
from tests.paging import orders
from tests.plans import plan_of, statements_of
from tests.sessions import connected

if TYPE_CHECKING:
    from storage.database import Database

# A tenth of what the user of the plans has.
MOST_READ = 2000
# Of 40,000, ada sends a quarter and gets a quarter. One in seven is a hold, and of these one in
# nine is open, every other one of them expired.
MANY = """
    INSERT INTO ledger (kind, from_user_id, to_user_id, amount, memo, expires_at)
    SELECT
        CASE n % 7 WHEN 0 THEN 'hold' ELSE 'transfer' END,
        CASE n % 4 WHEN 0 THEN {ada} ELSE 1000000 + n % 1000 END,
        CASE n % 4 WHEN 1 THEN {ada} ELSE 2000000 + n % 1000 END,
        1, '',
        CASE n % 7 WHEN 0 THEN now() + (n % 2 - 0.5) * interval '1 hour' END
    FROM generate_series(1, 40000) AS n;
    INSERT INTO open_holds
    SELECT id, from_user_id, to_user_id, amount, expires_at FROM ledger
    WHERE kind = 'hold' AND id % 9 = 0;
    INSERT INTO ledger (kind, from_user_id, to_user_id, amount, memo, hold_id)
    SELECT CASE id % 2 WHEN 0 THEN 'capture' ELSE 'release' END, from_user_id, to_user_id, 1, '', id
    FROM ledger WHERE kind = 'hold' AND id % 9 <> 0;
"""


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
async def test_a_page_is_walked_off_an_index_from_where_it_starts(
    db: Database, shared_url: str, *, generic: bool
) -> None:
    """Neither is a user's every transfer read for a page of them, nor the ledger."""
    (ada,) = await factories.add_users_with(db, 0)
    async with connected(shared_url) as planner:
        await planner.execute(MANY.format(ada=ada))
        await planner.execute("ANALYZE ledger; ANALYZE open_holds")
        for state in (None, *State):
            for direction in (None, *Direction):
                for order in orders("id"):
                    where = Filter(ada, direction, state)
                    window = Window(order, Cursor(20_000, 20_000), 10)
                    call = partial(transfers.list_page, where=where, window=window)
                    (statement,) = await statements_of(db, call)
                    plan = await plan_of(planner, statement, generic=generic)
                    assert "ledger" not in plan.read_through, (where, order, plan)
                    assert plan.read < MOST_READ, (where, order, plan)
