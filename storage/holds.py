"""All SQL that ends holds: by capture, by release, and by the clock.

Whoever ends a hold has locked its sender's account, so that only one of them can.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from sqlalchemy import (
    BigInteger,
    Insert,
    String,
    bindparam,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)

from storage import accounts, transfers
from storage.dialects.rows import Together
from storage.dialects.sql import is_one_of_any_length, is_selected, later_of, present_moment
from storage.errors import AmountTooLarge, Contention, HoldResolved, InactiveUser, Overflow
from storage.models import CreditAccount, EntryKind, LedgerEntry, OpenHold
from storage.transfers import State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import ColumnElement, FromClause

    from storage.accounts import Account
    from storage.database import Transaction
    from storage.dialects.rows import Changes, Source
    from storage.errors import StorageError
    from storage.transfers import TransferRow

_IS_EXPIRED = OpenHold.expires_at <= present_moment()


def _gone(source: Source, *conditions: ColumnElement[bool]) -> FromClause:
    """The holds that are open no more, and since when."""
    columns = *OpenHold.__table__.columns, present_moment().label("ended_at")
    return source("gone", delete(OpenHold).where(*conditions).returning(*columns))


def _noted(gone: FromClause, kind: ColumnElement[str], amount: ColumnElement[int]) -> Insert:
    """Writes into the ledger how holds ended."""
    entry = {
        LedgerEntry.kind: kind,
        LedgerEntry.from_user_id: gone.c.from_user_id,
        LedgerEntry.to_user_id: gone.c.to_user_id,
        LedgerEntry.amount: amount,
        LedgerEntry.memo: literal(""),
        LedgerEntry.hold_id: gone.c.transfer_id,
        LedgerEntry.created_at: gone.c.ended_at,
    }
    return insert(LedgerEntry).from_select(list(entry), select(*entry.values()))


def _expire(source: Source, conditions: Sequence[ColumnElement[bool]]) -> Changes:
    """Ends holds by the clock: tells the senders, what each has back, and of how many holds."""
    gone = _gone(source, *conditions)
    back = (
        select(
            gone.c.from_user_id,
            func.sum(gone.c.amount).cast(BigInteger).label("amount"),
            func.max(gone.c.expires_at).label("since"),
            func.count().label("holds"),
        )
        .group_by(gone.c.from_user_id)
        .subquery("back")
    )
    given = (
        update(CreditAccount)
        .where(CreditAccount.user_id == back.c.from_user_id)
        .values(
            {
                CreditAccount.available: CreditAccount.available + back.c.amount,
                CreditAccount.held: CreditAccount.held - back.c.amount,
                # As a reader has seen it since.
                CreditAccount.updated_at: later_of(CreditAccount.updated_at, back.c.since),
            }
        )
    )
    noted = _noted(gone, literal(EntryKind.EXPIRY.value), gone.c.amount)
    return [noted, given], select(back.c.from_user_id, back.c.amount, back.c.holds)


def _resolve(source: Source) -> Changes:
    """Ends one hold that has not expired: tells when, or nothing if there is none."""
    gone = _gone(source, OpenHold.transfer_id == bindparam("hold_id"), ~_IS_EXPIRED)
    kind, amount = bindparam("kind", type_=String), bindparam("amount", type_=BigInteger)
    noted = _noted(gone, kind, amount)
    # For every account that changes, if there was a hold.
    changed = accounts.change_balances(select(gone.c.ended_at).scalar_subquery())
    return [noted, changed.where(select(gone.c.transfer_id).exists())], select(gone.c.ended_at)


_OF_SENDERS = is_one_of_any_length(OpenHold.from_user_id, "user_ids")
_EXPIRE_ALL = Together(partial(_expire, conditions=[_OF_SENDERS, _IS_EXPIRED]))
_FIRST_EXPIRED = (
    select(OpenHold.transfer_id)
    .where(_OF_SENDERS, _IS_EXPIRED)
    .order_by(OpenHold.expires_at)
    .limit(bindparam("most"))
)
_EXPIRE_SOME = Together(
    partial(_expire, conditions=[is_selected(OpenHold.transfer_id, _FIRST_EXPIRED)])
)
_RESOLVE = Together(_resolve)

# Accounts that somebody has locked are passed over: others may be at the same work.
_LOCK_SENDERS = (
    select(CreditAccount.user_id)
    .where(
        is_selected(
            CreditAccount.user_id,
            select(OpenHold.from_user_id)
            .where(_IS_EXPIRED)
            .order_by(OpenHold.expires_at)
            .limit(bindparam("most")),
        )
    )
    .order_by(CreditAccount.user_id)
    .with_for_update(key_share=True, skip_locked=True)
)


async def expire(tx: Transaction, locked: Mapping[int, Account]) -> None:
    """Gives back to locked accounts what their expired holds held, and writes that down."""
    senders = [user_id for user_id, account in locked.items() if account.held]
    if not senders:
        return
    for row in await _EXPIRE_ALL.execute(tx, {"user_ids": senders}):
        locked[row.from_user_id].available += row.amount
        locked[row.from_user_id].held -= row.amount


async def release_expired(tx: Transaction, limit: int) -> int:
    """Does for some accounts what `expire` does, and returns for how many holds.

    Any number of callers may do so at once. Nobody has to: it keeps the working table small.

    Args:
        tx: the transaction.
        limit: how many holds at most, those first that expired first. Less are found when others
            have their accounts locked.
    """
    senders = list((await tx.execute(_LOCK_SENDERS, {"most": limit})).scalars())
    if not senders:
        return 0
    ended = await _EXPIRE_SOME.execute(tx, {"user_ids": senders, "most": limit})
    return sum(row.holds for row in ended)


async def capture(tx: Transaction, transfer_id: int, amount: int | None = None) -> TransferRow:
    """Gives what is held to the receiver, and returns the hold as it has become.

    Args:
        tx: the transaction.
        transfer_id: the hold.
        amount: how much of it the receiver gets, more than 0; the sender has the rest back. None
            for all.

    Raises:
        NotFound: when there is no such transfer.
        HoldResolved: when the transfer is no hold, or not pending any more.
        AmountTooLarge: when less is held.
        InactiveUser: when either user is inactive.
        Overflow: when the receiver would have more than can be counted.
    """
    hold = await _pending(tx, transfer_id)
    amount = hold.amount if amount is None else amount
    if amount > hold.amount:
        raise AmountTooLarge(transfer_id, hold.amount, amount)
    sender, receiver = await _lock(tx, hold.id, hold.users)
    for each in (sender, receiver):
        if not each.is_active:
            raise InactiveUser(each.user_id)
    if not receiver.has_room_for(amount):
        raise Overflow(f"user {receiver.user_id}")
    sender.add(available=hold.amount - amount, held=-hold.amount)
    receiver.add(available=amount)
    return await _end(tx, hold, EntryKind.CAPTURE, amount, [sender, receiver])


async def release(tx: Transaction, transfer_id: int) -> TransferRow:
    """Gives what is held back to the sender, and returns the hold as it has become.

    Raises:
        NotFound: when there is no such transfer.
        HoldResolved: when the transfer is no hold, or not pending any more.
    """
    hold = await _pending(tx, transfer_id)
    (sender,) = await _lock(tx, hold.id, hold.users[:1])
    sender.add(available=hold.amount, held=-hold.amount)
    return await _end(tx, hold, EntryKind.RELEASE, hold.amount, [sender])


async def _pending(tx: Transaction, transfer_id: int) -> TransferRow:
    """Returns a hold that was pending a moment ago."""
    transfer = await transfers.get(tx, transfer_id)
    if transfer.state is not State.PENDING:
        raise HoldResolved(transfer_id, transfer.state)
    return transfer


async def _lock(tx: Transaction, hold_id: int, user_ids: Sequence[int]) -> list[Account]:
    """Returns the locked accounts of these users, in their order."""
    locked = await accounts.lock(tx, user_ids)
    # The users of a pending hold cannot be deleted.
    if len(locked) < len(user_ids):
        raise await _ended(tx, hold_id)
    return [locked[user_id] for user_id in user_ids]


async def _end(
    tx: Transaction,
    hold: TransferRow,
    kind: Literal[EntryKind.CAPTURE, EntryKind.RELEASE],
    amount: int,
    changed: Sequence[Account],
) -> TransferRow:
    """Resolves a hold whose sender's account is locked."""
    entry = {"hold_id": hold.id, "kind": kind.value, "amount": amount}
    told = await _RESOLVE.execute(tx, entry | accounts.changes_of(tx, changed))
    if not told:
        raise await _ended(tx, hold.id)
    if kind is EntryKind.CAPTURE:
        hold = hold._replace(state=State.CAPTURED, captured_amount=amount)
    else:
        hold = hold._replace(state=State.RELEASED)
    return hold._replace(resolved_at=told[0].ended_at)


async def _ended(tx: Transaction, hold_id: int) -> StorageError:
    """Tells how a hold ended that was pending a moment ago."""
    transfer = await transfers.get(tx, hold_id)
    if transfer.state is State.PENDING:
        return Contention("a clock went back")
    return HoldResolved(hold_id, transfer.state)
