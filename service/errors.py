"""THE table: what was raised -> status code, reason and details.

Every RPC's errors pass through `failure_of`; no servicer names a status code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
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

# The storage errors' own words name a SQLSTATE.
STILL_REFERENCED = "something else still refers to this"
HAS_CREDITS = "a user who has credits, or holds that are pending, cannot be deleted"

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


class NotIdentified(Exception):
    """Nothing says who makes the call."""


class TokenRefused(Exception):
    """A token that does not count, or no longer, for the reason in its message."""


class AccessDenied(Exception):
    """The caller may not make the call.

    Args:
        caller: who it is.
        needed: the access that it takes.
    """

    def __init__(self, caller: str, needed: str) -> None:
        super().__init__(f"this call takes {needed} access, which the caller does not have")
        self.caller = caller
        self.needed = needed


class KeysUnreachable(Exception):
    """There is no key yet to check a token with."""


class Overloaded(Exception):
    """More work is offered than the server takes on."""


class RateExceeded(Exception):
    """The caller calls more often than it may.

    Args:
        seconds: after which it may call again.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__("the caller calls more often than it may")
        self.seconds = seconds


class AnswerTooLarge(Exception):
    """The answer to a read is larger than is sent.

    Args:
        bytes_: how large it is.
        most: how large it may be, in bytes.
    """

    def __init__(self, bytes_: int, most: int) -> None:
        super().__init__(
            f"the answer would be {bytes_} bytes, and at most {most} are sent:"
            " ask for a smaller page, or for a view with less in it"
        )
        self.bytes = bytes_
        self.most = most


class RequestIdReused(Exception):
    """Another request came with the same request id before.

    Args:
        paths: where the two differ.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        super().__init__(f"this request id came before with another {', '.join(paths)}")
        self.paths = paths
        self.fields = ",".join(paths)


class DeadlineExceeded(Exception):
    """The time ran out, or was too short to begin with.

    Args:
        reason: where the time went.
    """

    def __init__(self, reason: Reason.ValueType) -> None:
        super().__init__("the deadline passed")
        self.reason = reason


@dataclass(frozen=True)
class Failure:
    """What a caller is told: a status code, a sentence, and details by google.rpc."""

    code: Code
    message: str
    details: tuple[Message, ...]

    def to_status(self) -> status_pb2.Status:
        """Returns the google.rpc.Status that says the same."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        for detail in self.details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        return status

    @cached_property
    def trailer(self) -> bytes:
        """The serialized google.rpc.Status for the `grpc-status-details-bin` trailer."""
        serialized: bytes = self.to_status().SerializeToString()
        return serialized


class Rule(NamedTuple):
    """A row of the table.

    Args:
        code: the status code.
        reason: the ErrorInfo's reason.
        message: the sentence; None is the error's own, which is fit for callers.
        more: the details beside ErrorInfo, or what makes them from the error.
        metadata: the names of the error's attributes that ErrorInfo tells.
    """

    code: Code
    reason: Reason.ValueType
    message: str | None = None
    more: tuple[Message, ...] | Callable[[Any], tuple[Message, ...]] = ()
    metadata: tuple[str, ...] = ()

    @property
    def is_constant(self) -> bool:
        """Whether it tells the same of every error."""
        return self.message is not None and isinstance(self.more, tuple) and not self.metadata

    def failure(self, error: BaseException) -> Failure:
        """Returns what it tells of an error."""
        metadata = {name: str(getattr(error, name)) for name in self.metadata}
        more = self.more if isinstance(self.more, tuple) else self.more(error)
        info = _error_info(self.reason, metadata)
        return Failure(self.code, self.message or str(error), (info, *more))


def _retry_after(milliseconds: int) -> tuple[Message, ...]:
    delay = duration_pb2.Duration()
    delay.FromMilliseconds(milliseconds)
    return (details.RetryInfo(retry_delay=delay),)


def _retry_when_told(error: RateExceeded) -> tuple[Message, ...]:
    # Rounded up: who comes a moment too soon is refused again.
    return _retry_after(math.ceil(error.seconds * 1000))


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
    type_: str, subject: Callable[[Any], str] = lambda _: "", description: str | None = None
) -> Callable[[Any], tuple[Message, ...]]:
    """Tells what does not hold.

    Args:
        type_: which kind of thing, as a reason.
        subject: makes of the error what it does not hold of.
        description: what does not hold; None is the error's own words, which are fit for callers.
    """

    def details_of(error: Exception) -> tuple[Message, ...]:
        violation = details.PreconditionFailure.Violation(
            type=type_, subject=subject(error), description=description or str(error)
        )
        return (details.PreconditionFailure(violations=[violation]),)

    return details_of


def _user(error: storage.InsufficientCredits | storage.InactiveUser) -> str:
    return f"user/{error.user_id}"


def _transfer(error: storage.HoldResolved | storage.AmountTooLarge) -> str:
    return f"transfer/{error.transfer_id}"


def _reused(error: RequestIdReused) -> tuple[Message, ...]:
    violations = [
        details.PreconditionFailure.Violation(
            type="REQUEST_ID_REUSED", subject=field, description="differs from the first call's"
        )
        for field in error.paths
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
    NotIdentified: Rule(
        Code.UNAUTHENTICATED,
        reasons.ERROR_REASON_NOT_IDENTIFIED,
        "the call does not say who calls; send a bearer token, or take a client certificate",
    ),
    TokenRefused: Rule(Code.UNAUTHENTICATED, reasons.ERROR_REASON_TOKEN_REFUSED),
    AccessDenied: Rule(
        Code.PERMISSION_DENIED,
        reasons.ERROR_REASON_ACCESS_DENIED,
        metadata=("caller", "needed"),
    ),
    KeysUnreachable: Rule(
        Code.UNAVAILABLE,
        reasons.ERROR_REASON_KEYS_UNREACHABLE,
        "the keys that tokens are checked with cannot be had",
        _retry_after(1000),
    ),
    RequestIdReused: Rule(
        Code.FAILED_PRECONDITION,
        reasons.ERROR_REASON_REQUEST_ID_REUSED,
        None,
        _reused,
        ("fields",),
    ),
    Overloaded: Rule(
        Code.RESOURCE_EXHAUSTED,
        reasons.ERROR_REASON_OVERLOADED,
        "more work is offered than the server takes on",
        _retry_after(500),
    ),
    RateExceeded: Rule(
        Code.RESOURCE_EXHAUSTED, reasons.ERROR_REASON_RATE_EXCEEDED, None, _retry_when_told
    ),
    AnswerTooLarge: Rule(
        Code.RESOURCE_EXHAUSTED,
        reasons.ERROR_REASON_ANSWER_TOO_LARGE,
        metadata=("bytes", "most"),
    ),
    storage.NotFound: Rule(Code.NOT_FOUND, reasons.ERROR_REASON_NOT_FOUND, None, _resource),
    storage.AlreadyExists: Rule(
        Code.ALREADY_EXISTS, reasons.ERROR_REASON_ALREADY_EXISTS, None, _taken
    ),
    storage.Stale: Rule(
        Code.ABORTED,
        reasons.ERROR_REASON_ETAG_MISMATCH,
        None,
        lambda error: (*_resource(error), *_retry_after(0)),
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
        _precondition("STILL_REFERENCED", description=STILL_REFERENCED),
    ),
    storage.TooManyTags: Rule(
        Code.FAILED_PRECONDITION,
        reasons.ERROR_REASON_TOO_MANY_TAGS,
        None,
        _precondition("TOO_MANY_TAGS"),
    ),
    storage.InsufficientCredits: Rule(
        Code.FAILED_PRECONDITION,
        reasons.ERROR_REASON_INSUFFICIENT_CREDITS,
        None,
        _precondition("INSUFFICIENT_CREDITS", _user),
        ("user_id", "available", "required"),
    ),
    storage.InactiveUser: Rule(
        Code.FAILED_PRECONDITION,
        reasons.ERROR_REASON_INACTIVE_USER,
        None,
        _precondition("INACTIVE_USER", _user),
        ("user_id",),
    ),
    storage.LinkedFailed: Rule(
        Code.ABORTED, reasons.ERROR_REASON_LINKED_FAILED, metadata=("index",)
    ),
    storage.HoldResolved: Rule(
        Code.FAILED_PRECONDITION,
        reasons.ERROR_REASON_HOLD_RESOLVED,
        None,
        _precondition("HOLD_RESOLVED", _transfer),
        ("transfer_id", "state"),
    ),
    storage.AmountTooLarge: Rule(
        Code.FAILED_PRECONDITION,
        reasons.ERROR_REASON_AMOUNT_TOO_LARGE,
        None,
        _precondition("AMOUNT_TOO_LARGE", _transfer),
        ("transfer_id", "held", "required"),
    ),
    storage.Overflow: Rule(Code.OUT_OF_RANGE, reasons.ERROR_REASON_OVERFLOW, metadata=("whose",)),
    storage.HasCredits: Rule(
        Code.FAILED_PRECONDITION,
        reasons.ERROR_REASON_HAS_CREDITS,
        HAS_CREDITS,
        _precondition("HAS_CREDITS", description=HAS_CREDITS),
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


def _error_info(
    reason: Reason.ValueType, metadata: Mapping[str, str] | None = None
) -> details.ErrorInfo:
    name = Reason.Name(reason).removeprefix(_PREFIX)
    return details.ErrorInfo(domain=DOMAIN, reason=name, metadata=metadata)


# Made once: who is refused is refused often, and at once.
_CONSTANT = {kind: rule.failure(kind()) for kind, rule in TABLE.items() if rule.is_constant}


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
    return _CONSTANT.get(type(error)) or rule.failure(error)
