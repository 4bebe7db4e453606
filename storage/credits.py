"""All SQL that begins transfers: grants, transfers and holds, one or many at a time."""

from __future__ import annotations

from datetime import timedelta  # noqa: TC003 - NamedTuple keeps the annotations
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Interval,
    String,
    bindparam,
    func,
    insert,
    select,
)

from storage import accounts, holds
from storage.dialects.at_once import AtOnce, moment_by_then
from storage.dialects.rows import Together, given, named, new_values, rows_given
from storage.dialects.sql import moment_in, present_moment
from storage.errors import (
    InactiveUser,
    InsufficientCredits,
    LinkedFailed,
    NotFound,
    Overflow,
    StorageError,
)
from storage.models import CreditAccount, EntryKind, LedgerEntry, OpenHold
from storage.moments import Moment  # noqa: TC001 - NamedTuple keeps the annotations
from storage.transfers import State, TransferRow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Select

    from storage.accounts import Account
    from storage.database import Transaction
    from storage.dialects.rows import Changes, Source
    from storage.sessions import Session


class Balance(NamedTuple):
    """What a user has. What is held is not available."""

    available: int
    held: int
    updated_at: Moment


class Operation(NamedTuple):
    """A change that begins a transfer.

    Args:
        kind: a grant, a transfer or a hold.
        to_user_id: who gets the credits, or is to get them.
        amount: how many, more than 0.
        from_user_id: whose they are, another user; None for a grant.
        memo: a note.
        lifetime: how long a hold lasts, more than nothing; None for what is no hold.
    """

    kind: EntryKind
    to_user_id: int
    amount: int
    from_user_id: int | None = None
    memo: str = ""
    lifetime: timedelta | None = None

    @property
    def users(self) -> tuple[int, ...]:
        """The sender, if there is one, and the receiver."""
        to = self.to_user_id
        return (to,) if self.from_user_id is None else (self.from_user_id, to)


# A transfer that was made, or why it was not.
Outcome = TransferRow | StorageError

_EXPIRED = (
    select(
        OpenHold.from_user_id,
        func.sum(OpenHold.amount).cast(BigInteger).label("amount"),
        func.max(OpenHold.expires_at).label("since"),
    )
    .where(OpenHold.from_user_id == bindparam("user_id"), OpenHold.expires_at <= present_moment())
    .group_by(OpenHold.from_user_id)
    .subquery()
)
_BALANCE = (
    select(
        CreditAccount.available,
        CreditAccount.held,
        CreditAccount.updated_at,
        _EXPIRED.c.amount,
        _EXPIRED.c.since,
    )
    .outerjoin(_EXPIRED, _EXPIRED.c.from_user_id == CreditAccount.user_id)
    .where(CreditAccount.user_id == bindparam("user_id"))
)

_NEW = rows_given(
    "new",
    kind=String(),
    from_user_id=BigInteger(),
    to_user_id=BigInteger(),
    amount=BigInteger(),
    memo=String(),
    lifetime=Interval(),
)


def _make(source: Source, *, hold: bool) -> Changes:
    """Writes transfers down and changes the balances.

    Args:
        source: names what a change returns.
        hold: whether there are holds among the transfers.
    """
    entry = {
        LedgerEntry.kind: _NEW.c.kind,
        LedgerEntry.from_user_id: _NEW.c.from_user_id,
        LedgerEntry.to_user_id: _NEW.c.to_user_id,
        LedgerEntry.amount: _NEW.c.amount,
        LedgerEntry.memo: _NEW.c.memo,
        LedgerEntry.expires_at: moment_in(_NEW.c.lifetime),
        LedgerEntry.created_at: present_moment(),
    }
    made = source(
        "made",
        insert(LedgerEntry)
        .from_select(list(entry), select(*entry.values()))
        .returning(*LedgerEntry.__table__.columns),
    )
    changed = accounts.change_balances(select(func.max(made.c.created_at)).scalar_subquery())
    # Ids are given in the order of the rows.
    result = select(made.c.id, made.c.created_at, made.c.expires_at).order_by(made.c.id)
    if not hold:
        return [changed], result
    opened = {
        OpenHold.transfer_id: made.c.id,
        OpenHold.from_user_id: made.c.from_user_id,
        OpenHold.to_user_id: made.c.to_user_id,
        OpenHold.amount: made.c.amount,
        OpenHold.expires_at: made.c.expires_at,
    }
    holds_made = select(*opened.values()).where(made.c.kind == EntryKind.HOLD)
    opening = insert(OpenHold).from_select(list(opened), holds_made)
    return [changed, opening], result


# What an operation says of a transfer that is no hold.
_GIVEN = ("kind", "from_user_id", "to_user_id", "amount", "memo")


def _transfer() -> Select[*tuple[Any, ...]]:
    """Makes one transfer between accounts that are as most are."""
    entry: dict[Any, Any] = new_values(LedgerEntry, _GIVEN)
    giver, taker = entry[LedgerEntry.from_user_id], entry[LedgerEntry.to_user_id]
    locked = accounts.locked_now(giver, taker)
    can = accounts.can_give(locked, giver, entry[LedgerEntry.amount])
    entry[LedgerEntry.created_at] = moment_by_then()
    made = (
        insert(LedgerEntry)
        .from_select(list(entry), select(*entry.values()).where(can))
        .returning(*LedgerEntry.__table__.columns)
        .cte("made")
    )
    told = select(made.c.id, made.c.created_at, made.c.expires_at)
    return told.add_cte(accounts.give(locked, made).cte())


_MAKE = Together(partial(_make, hold=False))
_MAKE_WITH_HOLDS = Together(partial(_make, hold=True))
_TRANSFER = AtOnce(_transfer())


async def get_balance(read: Session, user_id: int) -> Balance:
    """Returns what a user has. What an expired hold held is available, whoever notes it when.

    Raises:
        NotFound: when there is no such user.
    """
    row = (await read.execute(_BALANCE, {"user_id": user_id})).one_or_none()
    if row is None:
        raise NotFound("user", user_id)
    back = row.amount or 0
    updated_at = row.updated_at if row.since is None else max(row.updated_at, row.since)
    return Balance(row.available + back, row.held - back, updated_at)


async def make(tx: Transaction, operation: Operation) -> TransferRow:
    """Makes one transfer.

    Raises:
        NotFound: when there is no such user.
        InactiveUser: when either user is inactive.
        InsufficientCredits: when the sender has too little available.
        Overflow: when the receiver would have more than can be counted.
    """
    if operation.kind is EntryKind.TRANSFER:
        told = named({name: getattr(operation, name) for name in _GIVEN})
        if rows := await _TRANSFER.execute(tx, told):
            return _to_rows([operation], rows)[0]
    (outcome,) = await make_all(tx, [operation])
    if isinstance(outcome, StorageError):
        raise outcome
    return outcome


async def make_all(
    tx: Transaction, operations: Sequence[Operation], *, atomic: bool = False
) -> list[Outcome]:
    """Makes transfers in order, in as many statements for a thousand as for one.

    Args:
        tx: the transaction.
        operations: what to make.
        atomic: makes none when any of them fails. Otherwise each stands alone.

    Returns:
        The outcome of each, in order. What it failed with is what `make` raises; where another of
        an atomic batch failed, `LinkedFailed`.
    """
    locked = await accounts.lock(tx, (user_id for each in operations for user_id in each.users))
    await holds.expire(tx, locked)
    refusals = [_book(locked, each) for each in operations]
    failed = next((at for at, refusal in enumerate(refusals) if refusal), None)
    if atomic and failed is not None:
        linked = LinkedFailed(failed)
        return [(at == failed and refusal) or linked for at, refusal in enumerate(refusals)]
    accepted = [each for each, refusal in zip(operations, refusals, strict=True) if not refusal]
    made = iter(await _write(tx, accepted, locked))
    return [refusal or next(made) for refusal in refusals]


def _book(locked: Mapping[int, Account], operation: Operation) -> StorageError | None:
    """Changes the accounts by an operation, or tells why that cannot be."""
    for user_id in operation.users:
        if user_id not in locked:
            return NotFound("user", user_id)
    for user_id in operation.users:
        if not locked[user_id].is_active:
            return InactiveUser(user_id)
    receiver, amount = locked[operation.to_user_id], operation.amount
    if operation.from_user_id is not None:
        sender = locked[operation.from_user_id]
        if sender.available < amount:
            return InsufficientCredits(sender.user_id, sender.available, amount)
        if operation.kind is EntryKind.HOLD:
            sender.add(available=-amount, held=amount)
            return None
    if not receiver.has_room_for(amount):
        return Overflow(f"user {receiver.user_id}")
    if operation.from_user_id is not None:
        locked[operation.from_user_id].add(available=-amount)
    receiver.add(available=amount)
    return None


async def _write(
    tx: Transaction, accepted: Sequence[Operation], locked: Mapping[int, Account]
) -> list[TransferRow]:
    """Writes down what was booked."""
    if not accepted:
        return []
    with_holds = any(each.kind is EntryKind.HOLD for each in accepted)
    make = _MAKE_WITH_HOLDS if with_holds else _MAKE
    told = _told(tx, accepted) | accounts.changes_of(tx, locked.values())
    return _to_rows(accepted, await make.execute(tx, told))


def _told(tx: Transaction, operations: Sequence[Operation]) -> dict[str, Any]:
    """Returns the parameters that are the transfers."""
    return given(
        tx,
        _NEW,
        kind=[each.kind for each in operations],
        from_user_id=[each.from_user_id for each in operations],
        to_user_id=[each.to_user_id for each in operations],
        amount=[each.amount for each in operations],
        memo=[each.memo for each in operations],
        lifetime=[each.lifetime for each in operations],
    )


def _to_rows(operations: Sequence[Operation], rows: Sequence[Any]) -> list[TransferRow]:
    """Reads what writing transfers down answered."""
    return [
        TransferRow(
            transfer_id,
            each.kind,
            each.from_user_id,
            each.to_user_id,
            each.amount,
            each.memo,
            created_at,
            expires_at,
            State.PENDING if each.kind is EntryKind.HOLD else State.SETTLED,
        )
        for each, (transfer_id, created_at, expires_at) in zip(operations, rows, strict=True)
    ]
