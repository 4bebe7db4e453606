"""What becomes of a statement whose caller's deadline comes before any other bound."""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from storage import users
from storage.errors import LockTimeout, StatementTimeout
from storage.usage import Usage, usage
from tests import factories
from tests.onlookers import locked_user
from tests.storage.test_database import for_ever

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from storage.database import Database, Transaction
    from tests.conftest import GiveUpAfter, Open

SOON, LONG = 0.3, 60.0
ONE = text("SELECT 1")


@contextmanager
def a_caller(seconds: float) -> Iterator[None]:
    """Somebody who has so many seconds, and does not leave when they have passed."""
    token = usage.set(Usage(deadline=time.monotonic() + seconds))
    try:
        yield
    finally:
        usage.reset(token)


async def in_a_transaction(db: Database, act: Callable[[Transaction], Awaitable[None]]) -> None:
    async with db.transaction() as tx:
        await act(tx)


async def nothing(tx: Transaction) -> None:
    await tx.execute(ONE)


@pytest.mark.parametrize("bounds", [{}, {"statement_timeout": 0, "lock_timeout": 0}])
async def test_a_statement_of_a_transaction_ends_with_the_deadline(
    opened: Open, bounds: dict[str, float]
) -> None:
    db = opened(size=1, overflow=0, **bounds)
    with pytest.raises(StatementTimeout), a_caller(SOON):
        await in_a_transaction(db, for_ever)
    # Whoever has the connection next has a deadline of their own.
    await in_a_transaction(db, nothing)


@pytest.mark.parametrize("bounds", [{}, {"statement_timeout": 0, "lock_timeout": 0}])
async def test_a_wait_for_a_lock_ends_with_the_deadline_and_is_told_as_one(
    opened: Open, shared_url: str, bounds: dict[str, float], give_up_after: GiveUpAfter
) -> None:
    give_up_after(SOON)
    db = opened(size=1, overflow=0, **bounds)
    made = await factories.add_user(db)
    async with locked_user(shared_url, made.id):
        with pytest.raises(LockTimeout), a_caller(LONG):
            await in_a_transaction(db, partial(users.delete, user_id=made.id))
    await in_a_transaction(db, partial(users.delete, user_id=made.id))


async def test_a_bound_that_is_closer_than_the_deadline_counts(opened: Open) -> None:
    db = opened(statement_timeout=1.0)
    with pytest.raises(StatementTimeout), a_caller(3600):
        await in_a_transaction(db, for_ever)


async def test_a_deadline_that_has_passed_is_a_bound(opened: Open) -> None:
    db = opened()
    await in_a_transaction(db, nothing)
    with pytest.raises(StatementTimeout), a_caller(-1):
        await in_a_transaction(db, for_ever)
