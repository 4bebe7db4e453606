"""Row -> message, and parts of requests -> plain values, where credits are moved."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from byline.v1 import credits_pb2 as pb

from service.convert import set_timestamp, to_timestamp
from service.errors import InvalidRequest, Violation, failure_of
from storage import audit, transfers
from storage.credits import Operation
from storage.errors import StorageError
from storage.models import EntryKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.duration_pb2 import Duration

    from storage.audit import Discrepancy
    from storage.credits import Balance, Outcome
    from storage.transfers import TransferRow

DEFAULT_LIFETIME = timedelta(days=7)
_NANOS_PER_SECOND = 1_000_000_000
_NANOS_PER_MICROSECOND = 1_000

_KINDS = {
    EntryKind.GRANT: pb.TRANSFER_KIND_GRANT,
    EntryKind.TRANSFER: pb.TRANSFER_KIND_TRANSFER,
    EntryKind.HOLD: pb.TRANSFER_KIND_HOLD,
}
_STATE_MESSAGES = {
    transfers.State.SETTLED: pb.TRANSFER_STATE_SETTLED,
    transfers.State.PENDING: pb.TRANSFER_STATE_PENDING,
    transfers.State.CAPTURED: pb.TRANSFER_STATE_CAPTURED,
    transfers.State.RELEASED: pb.TRANSFER_STATE_RELEASED,
    transfers.State.EXPIRED: pb.TRANSFER_STATE_EXPIRED,
}
_STATES = {number: state for state, number in _STATE_MESSAGES.items()}
_DIRECTIONS = {
    pb.TRANSFER_DIRECTION_INCOMING: transfers.Direction.INCOMING,
    pb.TRANSFER_DIRECTION_OUTGOING: transfers.Direction.OUTGOING,
}
_DISCREPANCIES = {
    audit.Kind.BALANCE: pb.DISCREPANCY_KIND_BALANCE,
    audit.Kind.HELD: pb.DISCREPANCY_KIND_HELD,
    audit.Kind.OPEN_HOLD: pb.DISCREPANCY_KIND_OPEN_HOLD,
    audit.Kind.DELETED_USER: pb.DISCREPANCY_KIND_DELETED_USER,
    audit.Kind.RESOLUTION: pb.DISCREPANCY_KIND_RESOLUTION,
    audit.Kind.TOTAL: pb.DISCREPANCY_KIND_TOTAL,
}


def to_transfer(row: TransferRow) -> pb.Transfer:
    """Returns the message of a transfer."""
    message = pb.Transfer()
    _fill(message, row)
    return message


def to_results(outcomes: Iterable[Outcome]) -> pb.BatchTransferResponse:
    """Returns the message of what became of the transfers of a batch."""
    response = pb.BatchTransferResponse()
    for outcome in outcomes:
        result = response.results.add()
        if isinstance(outcome, StorageError):
            result.error.CopyFrom(failure_of(outcome, "").to_status())
        else:
            _fill(result.transfer, outcome)
    return response


def _fill(message: pb.Transfer, row: TransferRow) -> None:
    """Writes a transfer where it is to be: a message that is given to another one is copied."""
    (
        message.id,
        kind,
        from_user_id,
        message.to_user_id,
        message.amount,
        message.memo,
        created_at,
        expires_at,
        state,
        message.captured_amount,
        resolved_at,
    ) = row
    message.kind = _KINDS[kind]
    message.from_user_id = from_user_id or 0
    message.state = _STATE_MESSAGES[state]
    set_timestamp(message.created_at, created_at)
    if expires_at is not None:
        set_timestamp(message.expires_at, expires_at)
    if resolved_at is not None:
        set_timestamp(message.resolved_at, resolved_at)


def to_balance(row: Balance) -> pb.GetBalanceResponse:
    """Returns the message of what a user has."""
    return pb.GetBalanceResponse(
        available=row.available, held=row.held, updated_at=to_timestamp(row.updated_at)
    )


def to_audit(found: audit.Audit) -> pb.AuditCreditsResponse:
    """Returns the message of an audit."""
    return pb.AuditCreditsResponse(
        accounts=found.accounts,
        transfers=found.transfers,
        total_granted=found.total_granted,
        total_balance=found.total_balance,
        discrepancies=map(_to_discrepancy, found.discrepancies),
    )


def _to_discrepancy(row: Discrepancy) -> pb.Discrepancy:
    return pb.Discrepancy(
        kind=_DISCREPANCIES[row.kind],
        user_id=row.user_id,
        transfer_id=row.transfer_id,
        expected=row.expected,
        found=row.found,
        text=row.text,
    )


def from_grant(request: pb.GrantRequest) -> Operation:
    """Returns the grant that is asked for."""
    return Operation(EntryKind.GRANT, request.user_id, request.amount, memo=request.memo)


def from_transfer(request: pb.TransferRequest | pb.NewTransfer) -> Operation:
    """Returns the transfer that is asked for."""
    return Operation(
        EntryKind.TRANSFER,
        request.to_user_id,
        request.amount,
        request.from_user_id,
        request.memo,
    )


def from_hold(request: pb.HoldRequest) -> Operation:
    """Returns the hold that is asked for.

    Raises:
        InvalidRequest: when how long it lasts is no duration.
    """
    return Operation(
        EntryKind.HOLD,
        request.to_user_id,
        request.amount,
        from_user_id=request.from_user_id,
        memo=request.memo,
        lifetime=(
            from_duration(request.expires_in, "expires_in")
            if request.HasField("expires_in")
            else DEFAULT_LIFETIME
        ),
    )


def from_duration(message: Duration, field: str) -> timedelta:
    """Returns a duration to the microsecond, rounded up.

    Args:
        message: more than nothing, and of as many seconds as the contract's rules have checked.
        field: whose it is, for the error.

    Raises:
        InvalidRequest: when the nanoseconds are more than a second, or negative.
    """
    if not 0 <= message.nanos < _NANOS_PER_SECOND:
        raise InvalidRequest(Violation(field, "nanos must be between 0 and 999,999,999"))
    microseconds = -(-message.nanos // _NANOS_PER_MICROSECOND)
    return timedelta(seconds=message.seconds, microseconds=microseconds)


def from_list_request(request: pb.ListTransfersRequest) -> transfers.Filter:
    """Returns which transfers are to be listed."""
    return transfers.Filter(
        request.user_id, _DIRECTIONS.get(request.direction), _STATES.get(request.state)
    )
