"""All SQL that reads transfers: what the ledger says that began, and how it ended."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Select, and_, bindparam, case, or_, select, union_all
from sqlalchemy.orm import aliased

from storage import keyset
from storage.dialects.sql import is_one_of, literal, present_moment, row_limit
from storage.errors import NotFound
from storage.models import EntryKind, LedgerEntry, OpenHold
from storage.moments import Moment  # noqa: TC001 - NamedTuple keeps the annotations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import InstrumentedAttribute

    from storage.sessions import Session


class State(StrEnum):
    """What has become of a transfer."""

    SETTLED = "settled"
    PENDING = "pending"
    CAPTURED = "captured"
    RELEASED = "released"
    EXPIRED = "expired"


class Direction(StrEnum):
    """How a transfer looks to one of its users."""

    INCOMING = "incoming"
    OUTGOING = "outgoing"


class TransferRow(NamedTuple):
    """A transfer and what has become of it. A grant comes from nobody."""

    id: int
    kind: EntryKind
    from_user_id: int | None
    to_user_id: int
    amount: int
    memo: str
    created_at: Moment
    expires_at: Moment | None = None
    state: State = State.SETTLED
    captured_amount: int = 0
    resolved_at: Moment | None = None

    @property
    def users(self) -> list[int]:
        """The sender, if there is one, and the receiver."""
        return [each for each in (self.from_user_id, self.to_user_id) if each is not None]


class Filter(NamedTuple):
    """Conditions that must all hold; None stands for no condition.

    Args:
        user_id: whose transfers.
        direction: those to the user only, or those from the user only.
        state: those in this state only.
    """

    user_id: int
    direction: Direction | None = None
    state: State | None = None


_Entry, _Resolution = LedgerEntry, aliased(LedgerEntry, name="resolution")
_IS_TRANSFER = _Entry.hold_id.is_(None)
# As the predicate of the partial indexes is written, also where a plan is for any values.
_IS_HOLD = _Entry.kind == literal(EntryKind.HOLD)
_STATE = case(
    (_Entry.kind != EntryKind.HOLD, State.SETTLED.value),
    (_Resolution.kind == EntryKind.CAPTURE, State.CAPTURED.value),
    (_Resolution.kind == EntryKind.RELEASE, State.RELEASED.value),
    # Whether or not anybody has cleaned up since.
    (
        or_(_Resolution.kind == EntryKind.EXPIRY, _Entry.expires_at <= present_moment()),
        State.EXPIRED.value,
    ),
    else_=State.PENDING.value,
)
_TRANSFERS: Select[*tuple[Any, ...]] = select(
    _Entry.id,
    _Entry.kind,
    _Entry.from_user_id,
    _Entry.to_user_id,
    _Entry.amount,
    _Entry.memo,
    _Entry.created_at,
    _Entry.expires_at,
    _STATE.label("state"),
    case((_Resolution.kind == EntryKind.CAPTURE, _Resolution.amount), else_=0).label("captured"),
    _Resolution.created_at.label("resolved_at"),
).outerjoin(_Resolution, _Resolution.hold_id == _Entry.id)

_FIND = _TRANSFERS.where(_Entry.id == bindparam("transfer_id"), _IS_TRANSFER)

_SIDES = {Direction.INCOMING: _Entry.to_user_id, Direction.OUTGOING: _Entry.from_user_id}
_SIDES_OF_OPEN = {
    Direction.INCOMING: OpenHold.to_user_id,
    Direction.OUTGOING: OpenHold.from_user_id,
}


async def get(read: Session, transfer_id: int) -> TransferRow:
    """Returns one transfer.

    Raises:
        NotFound: when there is none.
    """
    row = (await read.execute(_FIND, {"transfer_id": transfer_id})).one_or_none()
    if row is None:
        raise NotFound("transfer", transfer_id)
    return _to_row(row)


async def list_page(
    read: Session, where: Filter, window: keyset.Window
) -> keyset.Page[TransferRow]:
    """Returns a page of the transfers that match, in one statement.

    Args:
        read: where to read.
        where: which transfers.
        window: which page, ordered by `id`.
    """
    statement = _page(where._replace(user_id=0), window.shape)
    result = await read.execute(statement, {"user_ids": [where.user_id], **window.parameters})
    return keyset.page([_to_row(row) for row in result.all()], window, {"id": lambda row: row.id})


@lru_cache(keyset.SHAPES)
def _page(where: Filter, window: keyset.Window) -> Select[*tuple[Any, ...]]:
    """Selects a page of the transfers of some user that match."""
    directions = [where.direction] if where.direction else list(Direction)
    # A page of either side, and of these the page: nobody is on both sides of one transfer.
    sides = [_page_of_side(where, direction, window).subquery() for direction in directions]
    page = union_all(*(select(side) for side in sides)).subquery()
    statement = select(page).order_by(*keyset.order_by(window.order, {"id": page.c.id}))
    return statement.limit(row_limit(window.limit + 1))


def _page_of_side(
    where: Filter, direction: Direction, window: keyset.Window
) -> Select[*tuple[Any, ...]]:
    side: InstrumentedAttribute[Any]
    if where.state is State.PENDING:
        # Few holds are open, and few of the open ones are not pending.
        side, number = _SIDES_OF_OPEN[direction], OpenHold.transfer_id
        statement = _TRANSFERS.join(OpenHold, _Entry.id == OpenHold.transfer_id)
    else:
        side, number, statement = _SIDES[direction], _Entry.id, _TRANSFERS
    statement = statement.where(is_one_of(side, "user_ids"), _is_in(where.state))
    return keyset.paged(statement, window, {"id": number}, within=side)


def _is_in(state: State | None) -> ColumnElement[bool]:
    """Tells whether what is in the ledger is a transfer in this state.

    It is said by the states that it is not in: those the database takes to rule out little, so that
    it walks an index until a page is full. Those that it is in it takes to be rare, and reads and
    sorts all that a user has.
    """
    if state is None:
        return _IS_TRANSFER
    if state is State.SETTLED:
        return and_(_IS_TRANSFER, _Entry.kind != EntryKind.HOLD)
    return and_(_IS_HOLD, _STATE.not_in([each for each in State if each is not state]))


def _to_row(row: Sequence[Any]) -> TransferRow:
    """Reads a row of `_TRANSFERS`."""
    transfer = TransferRow(*row)
    transfer = transfer._replace(kind=EntryKind(transfer.kind), state=State(transfer.state))
    if transfer.state is State.EXPIRED:
        # And not when that was noted.
        return transfer._replace(resolved_at=transfer.expires_at)
    return transfer
