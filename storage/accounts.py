"""Accounts as those see them who change them: locked, in the order of the ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, case, func, select, update

from storage.dialects.at_once import in_time
from storage.dialects.rows import given, rows_given
from storage.dialects.sql import is_one_of_any_length, looked_up_by
from storage.models import CreditAccount, User

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import CTE, ColumnElement, Update

    from storage.database import Transaction
    from storage.moments import Moment

# What the database can count.
MOST = 2**63 - 1
# Who gives and who takes.
_BOTH = 2


@dataclass(slots=True)
class Account:
    """A locked account as it is to become, and by how much that is not what it was."""

    user_id: int
    available: int
    held: int
    is_active: bool
    more_available: int = 0
    more_held: int = 0

    def add(self, *, available: int = 0, held: int = 0) -> None:
        """Changes what it is to become."""
        self.available += available
        self.held += held
        self.more_available += available
        self.more_held += held

    def has_room_for(self, amount: int) -> bool:
        """Whether so many more can be counted, also when all that is held comes back."""
        return self.available + self.held + amount <= MOST


# Read beside it, so that the user is not locked.
_IS_ACTIVE = select(User.is_active).where(User.id == CreditAccount.user_id).scalar_subquery()
_ACCOUNTS = select(
    CreditAccount.user_id,
    CreditAccount.available,
    CreditAccount.held,
    _IS_ACTIVE.label("is_active"),
).order_by(CreditAccount.user_id)
_LOCK = looked_up_by(
    "PRIMARY",
    _ACCOUNTS.where(is_one_of_any_length(CreditAccount.user_id, "user_ids")).with_for_update(
        of=CreditAccount, key_share=True
    ),
    CreditAccount,
)

_CHANGES = rows_given("changes", user_id=BigInteger(), available=BigInteger(), held=BigInteger())


def locked_now(giver: ColumnElement[int], taker: ColumnElement[int]) -> CTE:
    """PostgreSQL: two accounts, of which those are locked that nobody else has locked."""
    both = _ACCOUNTS.where(CreditAccount.user_id.in_((giver, taker)), in_time())
    return both.with_for_update(of=CreditAccount, key_share=True, skip_locked=True).cte("locked")


def can_give(
    locked: CTE, giver: ColumnElement[int], amount: ColumnElement[int]
) -> ColumnElement[bool]:
    """Tells whether one of two accounts of `locked_now` can give to the other, as most can.

    Both are there and locked, their users are active, neither holds credits, and the one has enough
    and the other room enough.
    """
    is_fit = case(
        (locked.c.user_id == giver, locked.c.available >= amount),
        # No sum, which might be more than can be counted.
        else_=locked.c.available <= MOST - amount,
    )
    fit = select(func.count()).select_from(locked)
    fit = fit.where(locked.c.is_active, locked.c.held == 0, is_fit)
    return fit.scalar_subquery() == _BOTH


def give(locked: CTE, made: CTE) -> Update:
    """Moves what a transfer says between the accounts of `locked_now`, if it was made."""
    moved = case((locked.c.user_id == made.c.from_user_id, -made.c.amount), else_=made.c.amount)
    return (
        update(CreditAccount)
        .where(
            CreditAccount.user_id == locked.c.user_id,
            locked.c.user_id.in_((made.c.from_user_id, made.c.to_user_id)),
        )
        .values(
            {
                # From what was locked. PostgreSQL holds to the constraints first what becomes of
                # the account as it was when the statement began, and then of what it is.
                CreditAccount.available: locked.c.available + moved,
                CreditAccount.updated_at: made.c.created_at,
            }
        )
    )


def change_balances(moment: ColumnElement[Moment]) -> Update:
    """Changes locked accounts by what `changes_of` says.

    Args:
        moment: when: the one that the ledger has.
    """
    return (
        update(CreditAccount)
        .where(CreditAccount.user_id == _CHANGES.c.user_id)
        .values(
            {
                # Differences and not sums: were a lock ever forgotten, no credits would come of it.
                CreditAccount.available: CreditAccount.available + _CHANGES.c.available,
                CreditAccount.held: CreditAccount.held + _CHANGES.c.held,
                CreditAccount.updated_at: moment,
            }
        )
    )


async def lock(tx: Transaction, user_ids: Iterable[int]) -> dict[int, Account]:
    """Returns the accounts of those of the users that there are, which nobody else can change.

    An account is there while its user is.
    """
    rows = await tx.execute(_LOCK, {"user_ids": sorted(set(user_ids))})
    return {
        row.user_id: Account(row.user_id, row.available, row.held, row.is_active) for row in rows
    }


def changes_of(tx: Transaction, changed: Iterable[Account]) -> dict[str, Any]:
    """Returns the parameters of `change_balances`."""
    accounts = [each for each in changed if each.more_available or each.more_held]
    return given(
        tx,
        _CHANGES,
        user_id=[each.user_id for each in accounts],
        available=[each.more_available for each in accounts],
        held=[each.more_held for each in accounts],
    )
