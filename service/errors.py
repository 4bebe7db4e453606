"""THE table: what was raised -> status code, reason and details.

Every RPC's errors pass through `failure_of`; no servicer names a status code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from byline.v1 import errors_pb2 as reasons
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2

from storage import errors as storage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from google.protobuf.message import Message

DOMAIN = "byline"
_PREFIX = "ERROR_REASON_"

# The storage error's own words name a SQLSTATE.
STILL_REFERENCED = "something else still refers to this"

Code = grpc.StatusCode
Reason = reasons.ErrorReason


class Violation(NamedTuple):
    """A field of a request and what is wrong with it."""

    field: str
    description: str


class InvalidRequest(Exception):
    """The request breaks a rule of the contract."""

    def __init__(self, *violations: Violation) -> None:
        super().__init__("; ".join(f"{field}: {text}" for field, text in violations))
        self.violations = violations


class InvalidCredentials(Exception):
    """No active user has this login and password. Which of these it is, nobody is told."""


class Overloaded(Exception):
    """More work is offered than the server takes on."""


class RequestIdReused(Exception):
    """Another request came with the same request id before.

    Args:
        fields: the paths at which the two differ.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        super().__init__(f"this request id came before with another {', '.join(fields)}")
        self.fields = fields


class DeadlineExceeded(Exception):
    """The time ran out, or was too short to begin with.

    Args:
        reason: where the time went.
    """

    def __init__(self, reason: Reason.ValueType) -> None:
        super().__init__("the deadline passed")
        self.reason = reason


class Failure(NamedTuple):
    """What a caller is told: a status code, a sentence, and details by google.rpc."""

    code: Code
    message: str
    details: tuple[Message, ...]

    def to_trailer(self) -> bytes:
        """Returns the serialized google.rpc.Status for the `grpc-status-details-bin` trailer."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        for detail in self.details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        serialized: bytes = status.SerializeToString()
        return serialized


class Rule(NamedTuple):
    """A row of the table.

    Args:
        code: the status code.
        reason: the ErrorInfo's reason.
        message: the sentence; None is the error's own, which is fit for callers.
        more: the details beside ErrorInfo, made from the error.
        metadata: the ErrorInfo's metadata, made from the error.
    """

    code: Code
    reason: Reason.ValueType
    message: str | None = None
    more: Callable[[Any], tuple[Message, ...]] = lambda _: ()
    metadata: Callable[[Any], Mapping[str, str]] = lambda _: {}


def _retry_after(milliseconds: int) -> Callable[[Any], tuple[Message, ...]]:
    delay = duration_pb2.Duration(nanos=milliseconds * 1_000_000)
    return lambda _: (details.RetryInfo(retry_delay=delay),)


def _resource(error: storage.NotFound | storage.Stale) -> tuple[Message, ...]:
    return (details.ResourceInfo(resource_type=error.resource, resource_name=error.name),)


def _taken(error: storage.AlreadyExists) -> tuple[Message, ...]:
    return (
        details.ResourceInfo(
            resource_type=error.resource, resource_name=error.field, description=str(error)
        ),
    )


def _bad_request(error: InvalidRequest) -> tuple[Message, ...]:
    violations = [
        details.BadRequest.FieldViolation(field=field, description=description)
        for field, description in error.violations
    ]
    return (details.BadRequest(field_violations=violations),)


def _precondition(
    reason: Reason.ValueType, text: str | None = None
) -> Callable[[BaseException], tuple[Message, ...]]:
    kind = Reason.Name(reason).removeprefix(_PREFIX)

    def failure(error: BaseException) -> tuple[Message, ...]:
        violation = details.PreconditionFailure.Violation(type=kind, description=text or str(error))
        return (details.PreconditionFailure(violations=[violation]),)

    return failure


def _reused(error: RequestIdReused) -> tuple[Message, ...]:
    violations = [
        details.PreconditionFailure.Violation(
            type="REQUEST_ID_REUSED", subject=field, description="differs from the first call's"
        )
        for field in error.fields
    ]
    return (details.PreconditionFailure(violations=violations),)


TABLE: dict[type[BaseException], Rule] = {
    InvalidRequest: Rule(
        Code.INVALID_ARGUMENT, reasons.ERROR_REASON_INVALID_REQUEST, None, _bad_request
    ),
    InvalidCredentials: Rule(
        Code.UNAUTHENTICATED,
        reasons.ERROR_REASON_INVALID_CREDENTIALS,
        "no active user has this login and password",
    ),
    RequestIdReused: Rule(
        Code.FAILED_PRECONDITION,
        reasons.ERROR_REASON_REQUEST_ID_REUSED,
        None,
        _reused,
        lambda error: {"fields": ",".join(error.fields)},
    ),
    Overloaded: Rule(
        Code.RESOURCE_EXHAUSTED,
        reasons.ERROR_REASON_OVERLOADED,
        "more work is offered than the server takes on",
        _retry_after(500),
    ),
    storage.NotFound: Rule(Code.NOT_FOUND, reasons.ERROR_REASON_NOT_FOUND, None, _resource),
    storage.AlreadyExists: Rule(
        Code.ALREADY_EXISTS, reasons.ERROR_REASON_ALREADY_EXISTS, None, _taken
    ),
    storage.Stale: Rule(
        Code.ABORTED,
        reasons.ERROR_REASON_ETAG_MISMATCH,
        None,
        lambda error: (*_resource(error), *_retry_after(0)(error)),
    ),
    storage.Contention: Rule(
        Code.ABORTED,
        reasons.ERROR_REASON_CONTENTION,
        "other calls changed the same things at the same time",
        _retry_after(100),
    ),
    storage.StillReferenced: Rule(
        Code.FAILED_PRECONDITION,
        reasons.ERROR_REASON_STILL_REFERENCED,
        STILL_REFERENCED,
        _precondition(reasons.ERROR_REASON_STILL_REFERENCED, STILL_REFERENCED),
    ),
    storage.TooManyTags: Rule(
        Code.FAILED_PRECONDITION,
        reasons.ERROR_REASON_TOO_MANY_TAGS,
        None,
        _precondition(reasons.ERROR_REASON_TOO_MANY_TAGS),
    ),
    storage.PoolTimeout: Rule(
        Code.UNAVAILABLE,
        reasons.ERROR_REASON_POOL_WAIT,
        "no database connection came free in time",
        _retry_after(500),
    ),
    storage.DatabaseDown: Rule(
        Code.UNAVAILABLE,
        reasons.ERROR_REASON_DATABASE_DOWN,
        "the database cannot be reached",
        _retry_after(1000),
    ),
    storage.LockTimeout: Rule(
        Code.DEADLINE_EXCEEDED,
        reasons.ERROR_REASON_LOCK_WAIT,
        "a lock was not granted in time",
    ),
    storage.StatementTimeout: Rule(
        Code.DEADLINE_EXCEEDED,
        reasons.ERROR_REASON_STATEMENT,
        "a database statement took too long",
    ),
}


def failure_of(error: BaseException, request_id: str) -> Failure:
    """Returns what the caller is told of an error.

    Args:
        error: what was raised.
        request_id: what the caller can quote; the server's log has the rest.
    """
    if isinstance(error, DeadlineExceeded):
        return Failure(Code.DEADLINE_EXCEEDED, str(error), (_error_info(error.reason),))
    rule = TABLE.get(type(error))
    if rule is None:
        message = f"the server failed; its log tells more under request id {request_id}"
        return Failure(Code.INTERNAL, message, (_error_info(reasons.ERROR_REASON_INTERNAL),))
    info = _error_info(rule.reason, rule.metadata(error))
    return Failure(rule.code, rule.message or str(error), (info, *rule.more(error)))


def _error_info(
    reason: Reason.ValueType, metadata: Mapping[str, str] | None = None
) -> details.ErrorInfo:
    name = Reason.Name(reason).removeprefix(_PREFIX)
    return details.ErrorInfo(domain=DOMAIN, reason=name, metadata=metadata)
