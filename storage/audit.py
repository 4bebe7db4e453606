"""The audit of credits: adds up the ledger, and compares it with all that is kept of it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    Select,
    and_,
    bindparam,
    cast,
    func,
    literal,
    or_,
    select,
    union_all,
)
from sqlalchemy.orm import aliased

from storage.accounts import MOST
from storage.dialects.sql import exact_sum
from storage.dialects.types import SUM
from storage.errors import Overflow
from storage.models import CreditAccount, EntryKind, LedgerEntry, OpenHold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import SQLColumnExpression

    from storage.sessions import Read

# How many discrepancies are told of at most.
MOST_TOLD = 1000


class Kind(StrEnum):
    """What does not agree."""

    BALANCE = "balance"
    HELD = "held"
    OPEN_HOLD = "open_hold"
    DELETED_USER = "deleted_user"
    RESOLUTION = "resolution"
    TOTAL = "total"


_TEXTS = {
    Kind.BALANCE: "user {user_id} has {found} credits, and {expected} by the ledger",
    Kind.HELD: "{found} credits of user {user_id} are held, and {expected} by their open holds",
    Kind.OPEN_HOLD: "transfer {transfer_id} holds {found} credits, and {expected} by the ledger",
    Kind.DELETED_USER: "user {user_id}, who is gone, has {found} credits by the ledger",
    Kind.RESOLUTION: (
        "transfer {transfer_id} was of {expected} credits, and resolved as one of {found}"
    ),
    Kind.TOTAL: "all users have {found} credits, and {expected} were granted",
}


class Discrepancy(NamedTuple):
    """A place where what is kept is not what the ledger says. Ids are 0 where it is about none."""

    kind: Kind
    user_id: int
    transfer_id: int
    expected: int
    found: int

    @property
    def text(self) -> str:
        """The same in a sentence."""
        return _TEXTS[self.kind].format(**self._asdict())


class Audit(NamedTuple):
    """What there is by count, and what does not agree."""

    accounts: int
    transfers: int
    total_granted: int
    total_balance: int
    discrepancies: Sequence[Discrepancy]


_Hold, _End = aliased(LedgerEntry, name="hold"), aliased(LedgerEntry, name="ending")
_MOVED = LedgerEntry.kind.in_([EntryKind.TRANSFER, EntryKind.CAPTURE])
_NONE = literal(0)


def _check(
    kind: Kind,
    user_id: SQLColumnExpression[Any],
    transfer_id: SQLColumnExpression[Any],
    expected: SQLColumnExpression[Any],
    found: SQLColumnExpression[Any],
) -> Select[*tuple[Any, ...]]:
    return select(
        literal(kind.value).label("kind"),
        user_id.label("user_id"),
        transfer_id.label("transfer_id"),
        cast(func.coalesce(expected, 0), SUM).label("expected"),
        cast(func.coalesce(found, 0), SUM).label("found"),
    )


_steps = union_all(
    select(LedgerEntry.to_user_id.label("user_id"), LedgerEntry.amount.label("amount")).where(
        or_(_MOVED, LedgerEntry.kind == EntryKind.GRANT)
    ),
    select(LedgerEntry.from_user_id, -LedgerEntry.amount).where(_MOVED),
).subquery("steps")
_by_ledger = (
    select(_steps.c.user_id, exact_sum(_steps.c.amount).label("amount"))
    .group_by(_steps.c.user_id)
    .cte("by_ledger")
)
_by_holds = (
    select(OpenHold.from_user_id.label("user_id"), exact_sum(OpenHold.amount).label("amount"))
    .group_by(OpenHold.from_user_id)
    .cte("by_holds")
)
_unresolved = (
    select(_Hold)
    .outerjoin(_End, _End.hold_id == _Hold.id)
    .where(_Hold.kind == EntryKind.HOLD, _End.id.is_(None))
    .cte("unresolved")
)
_has = cast(CreditAccount.available, SUM) + CreditAccount.held

_CHECKS = (
    _check(Kind.BALANCE, CreditAccount.user_id, _NONE, _by_ledger.c.amount, _has)
    .outerjoin_from(CreditAccount, _by_ledger, _by_ledger.c.user_id == CreditAccount.user_id)
    .where(_has != func.coalesce(_by_ledger.c.amount, 0)),
    _check(Kind.DELETED_USER, _by_ledger.c.user_id, _NONE, _NONE, _by_ledger.c.amount)
    .outerjoin_from(_by_ledger, CreditAccount, _by_ledger.c.user_id == CreditAccount.user_id)
    .where(CreditAccount.user_id.is_(None), _by_ledger.c.amount != 0),
    _check(Kind.HELD, CreditAccount.user_id, _NONE, _by_holds.c.amount, CreditAccount.held)
    .outerjoin_from(CreditAccount, _by_holds, _by_holds.c.user_id == CreditAccount.user_id)
    .where(CreditAccount.held != func.coalesce(_by_holds.c.amount, 0)),
    _check(
        Kind.OPEN_HOLD,
        _unresolved.c.from_user_id,
        _unresolved.c.id,
        _unresolved.c.amount,
        OpenHold.amount,
    )
    .outerjoin_from(_unresolved, OpenHold, OpenHold.transfer_id == _unresolved.c.id)
    .where(
        or_(
            OpenHold.transfer_id.is_(None),
            OpenHold.amount != _unresolved.c.amount,
            OpenHold.from_user_id != _unresolved.c.from_user_id,
            OpenHold.to_user_id != _unresolved.c.to_user_id,
            OpenHold.expires_at != _unresolved.c.expires_at,
        )
    ),
    _check(Kind.OPEN_HOLD, OpenHold.from_user_id, OpenHold.transfer_id, _NONE, OpenHold.amount)
    .outerjoin_from(OpenHold, _unresolved, OpenHold.transfer_id == _unresolved.c.id)
    .where(_unresolved.c.id.is_(None)),
    _check(Kind.RESOLUTION, _End.from_user_id, _End.hold_id, _Hold.amount, _End.amount)
    .outerjoin_from(_End, _Hold, and_(_Hold.id == _End.hold_id, _Hold.kind == EntryKind.HOLD))
    .where(
        _End.hold_id.is_not(None),
        or_(
            _Hold.id.is_(None),
            _End.from_user_id != _Hold.from_user_id,
            _End.to_user_id != _Hold.to_user_id,
            _End.amount > _Hold.amount,
            and_(_End.kind != EntryKind.CAPTURE, _End.amount != _Hold.amount),
        ),
    ),
)
_DISCREPANCIES = union_all(*_CHECKS).limit(bindparam("most"))
_TOTALS = select(
    select(func.count()).select_from(CreditAccount).scalar_subquery(),
    select(func.count()).where(LedgerEntry.hold_id.is_(None)).scalar_subquery(),
    select(exact_sum(LedgerEntry.amount))
    .where(LedgerEntry.kind == EntryKind.GRANT)
    .scalar_subquery(),
    select(exact_sum(CreditAccount.available) + exact_sum(CreditAccount.held)).scalar_subquery(),
)


async def audit(read: Read) -> Audit:
    """Audits all credits, in two statements.

    Args:
        read: where to read, with a snapshot: all of it has to be of one moment.

    Raises:
        Overflow: when a sum is more than 64 bits can hold.
    """
    totals = [int(each) for each in (await read.execute(_TOTALS)).one()]
    accounts, transfers, granted, balance = totals
    rows = await read.execute(_DISCREPANCIES, {"most": MOST_TOLD})
    found = [Discrepancy(Kind(row[0]), *map(int, row[1:])) for row in rows]
    if granted != balance:
        found = [*found[: MOST_TOLD - 1], Discrepancy(Kind.TOTAL, 0, 0, granted, balance)]
    if any(abs(each) > MOST for each in (*totals, *(n for row in found for n in row[3:]))):
        raise Overflow("all users")
    return Audit(accounts, transfers, granted, balance, found)
