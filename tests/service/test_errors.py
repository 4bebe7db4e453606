"""The error table: what every error that can be raised tells a caller."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg
import grpc
import pytest
from byline.v1 import errors_pb2
from google.rpc import error_details_pb2, status_pb2

from service import errors
from service.errors import failure_of
from storage import errors as storage
from storage.errors import of_sqlstate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.errors import Failure

Code = grpc.StatusCode

SECRET = "the words of a driver"
REQUEST_ID = "the id of the request"


def precondition(reason: str) -> tuple[Code, str, set[str]]:
    return Code.FAILED_PRECONDITION, reason, {"PreconditionFailure"}


# What section 4 of the design says: the status code, the reason, the details beside ErrorInfo.
REFUSED = (Code.INVALID_ARGUMENT, "INVALID_REQUEST", {"BadRequest"})
NOT_FOUND = (Code.NOT_FOUND, "NOT_FOUND", {"ResourceInfo"})
TAKEN = (Code.ALREADY_EXISTS, "ALREADY_EXISTS", {"ResourceInfo"})
STALE = (Code.ABORTED, "ETAG_MISMATCH", {"ResourceInfo", "RetryInfo"})
CONTENTION = (Code.ABORTED, "CONTENTION", {"RetryInfo"})
FULL_OF_TAGS = precondition("TOO_MANY_TAGS")
REFERENCED = precondition("STILL_REFERENCED")
UNKNOWN_LOGIN = (Code.UNAUTHENTICATED, "INVALID_CREDENTIALS", set[str]())
REUSED = (Code.FAILED_PRECONDITION, "REQUEST_ID_REUSED", {"PreconditionFailure"})
OVERLOADED = (Code.RESOURCE_EXHAUSTED, "OVERLOADED", {"RetryInfo"})
POOL_WAIT = (Code.UNAVAILABLE, "POOL_WAIT", {"RetryInfo"})
DOWN = (Code.UNAVAILABLE, "DATABASE_DOWN", {"RetryInfo"})
LOCK_WAIT = (Code.DEADLINE_EXCEEDED, "LOCK_WAIT", set[str]())
STATEMENT = (Code.DEADLINE_EXCEEDED, "STATEMENT", set[str]())
INTERNAL = (Code.INTERNAL, "INTERNAL", set[str]())

# One of each that the service or the storage raises, and some that nobody means to.
RAISED = [
    (errors.InvalidRequest(errors.Violation("email", "is missing")), REFUSED),
    (errors.InvalidCredentials(SECRET), UNKNOWN_LOGIN),
    (errors.NotIdentified(SECRET), (Code.UNAUTHENTICATED, "NOT_IDENTIFIED", set[str]())),
    (
        errors.TokenRefused("the token has expired"),
        (Code.UNAUTHENTICATED, "TOKEN_REFUSED", set[str]()),
    ),
    (
        errors.AccessDenied("web", "write"),
        (Code.PERMISSION_DENIED, "ACCESS_DENIED", set[str]()),
    ),
    (
        errors.KeysUnreachable(SECRET),
        (Code.UNAVAILABLE, "KEYS_UNREACHABLE", {"RetryInfo"}),
    ),
    (errors.RequestIdReused(["password", "user.full_name"]), REUSED),
    (errors.Overloaded(SECRET), OVERLOADED),
    (
        errors.RateExceeded(0.0121),
        (Code.RESOURCE_EXHAUSTED, "RATE_EXCEEDED", {"RetryInfo"}),
    ),
    (
        errors.AnswerTooLarge(6, 5),
        (Code.RESOURCE_EXHAUSTED, "ANSWER_TOO_LARGE", set[str]()),
    ),
    (errors.DeadlineExceeded(errors_pb2.ERROR_REASON_STATEMENT), STATEMENT),
    (errors.DeadlineExceeded(errors_pb2.ERROR_REASON_LOCK_WAIT), LOCK_WAIT),
    (
        errors.DeadlineExceeded(errors_pb2.ERROR_REASON_POOL_WAIT),
        (Code.DEADLINE_EXCEEDED, "POOL_WAIT", set[str]()),
    ),
    (
        errors.DeadlineExceeded(errors_pb2.ERROR_REASON_DEADLINE),
        (Code.DEADLINE_EXCEEDED, "DEADLINE", set[str]()),
    ),
    (storage.NotFound("user", 7), NOT_FOUND),
    (storage.AlreadyExists("user", "email"), TAKEN),
    (storage.Stale("user", 7), STALE),
    (storage.Contention(SECRET), CONTENTION),
    (storage.StillReferenced(SECRET), REFERENCED),
    (storage.TooManyTags(50), FULL_OF_TAGS),
    (storage.InsufficientCredits(7, 5, 6), precondition("INSUFFICIENT_CREDITS")),
    (storage.InactiveUser(7), precondition("INACTIVE_USER")),
    (storage.LinkedFailed(3), (Code.ABORTED, "LINKED_FAILED", set[str]())),
    (storage.HoldResolved(8, "released"), precondition("HOLD_RESOLVED")),
    (storage.AmountTooLarge(8, 5, 6), precondition("AMOUNT_TOO_LARGE")),
    (storage.Overflow("user 7"), (Code.OUT_OF_RANGE, "OVERFLOW", set[str]())),
    (storage.HasCredits(SECRET), precondition("HAS_CREDITS")),
    (storage.PoolTimeout(SECRET), POOL_WAIT),
    (storage.DatabaseDown(SECRET), DOWN),
    (storage.LockTimeout(SECRET), LOCK_WAIT),
    (storage.StatementTimeout(SECRET), STATEMENT),
    (storage.Unexpected(SECRET), INTERNAL),
    (ValueError(SECRET), INTERNAL),
    (TimeoutError(SECRET), INTERNAL),
    (asyncio.CancelledError(SECRET), INTERNAL),
]

# What a SQLSTATE means where it is no fault of ours, by class and where it differs from its class.
BY_CLASS = {"08": DOWN, "28": DOWN, "40": CONTENTION, "53": DOWN, "57": DOWN, "58": DOWN}
BY_SQLSTATE = {
    "23001": REFERENCED,
    "23503": REFERENCED,
    "25006": DOWN,
    "25P03": DOWN,
    "3D000": DOWN,
    "55P03": LOCK_WAIT,
    "57014": STATEMENT,
}


def heirs(kind: type[Any]) -> Iterator[type[Any]]:
    """Yields every class below one, at whatever distance."""
    for each in kind.__subclasses__():
        yield each
        yield from heirs(each)


# Every SQLSTATE of PostgreSQL's Appendix A that is an error, as the driver lists them.
SQLSTATES = sorted({kind.sqlstate for kind in heirs(asyncpg.PostgresError) if kind.sqlstate})


@pytest.mark.parametrize(
    ("error", "expected"), RAISED, ids=lambda value: getattr(type(value), "__name__", "")
)
def test_an_error_tells_what_the_design_says(
    error: BaseException, expected: tuple[Code, str, set[str]]
) -> None:
    assert told(failure_of(error, REQUEST_ID)) == expected


def test_every_error_is_in_the_table() -> None:
    tried = {type(error) for error, _ in RAISED}
    assert set(heirs(storage.StorageError)) <= tried
    assert set(errors.TABLE) <= tried
    # A fault of ours has no line of its own: what has none is one.
    assert set(heirs(storage.StorageError)) - set(errors.TABLE) == {storage.Unexpected}


@pytest.mark.parametrize("sqlstate_class", sorted({each[:2] for each in SQLSTATES}))
def test_a_sqlstate_tells_what_the_design_says(sqlstate_class: str) -> None:
    by_class = BY_CLASS.get(sqlstate_class, INTERNAL)
    known = [each for each in SQLSTATES if each.startswith(sqlstate_class)]
    for sqlstate in (*known, f"{sqlstate_class}ZZZ"):
        failure = failure_of(of_sqlstate(sqlstate, SECRET), REQUEST_ID)
        assert told(failure) == BY_SQLSTATE.get(sqlstate, by_class), sqlstate
        assert sqlstate.encode() not in failure.trailer


@pytest.mark.parametrize("constraint", storage.UNIQUE_KEYS)
def test_a_unique_key_tells_which_field_is_taken(constraint: str) -> None:
    failure = failure_of(of_sqlstate("23505", constraint), REQUEST_ID)
    assert told(failure) == TAKEN
    (info,) = [each for each in failure.details if isinstance(each, error_details_pb2.ResourceInfo)]
    assert (info.resource_type, info.resource_name) == storage.UNIQUE_KEYS[constraint]


@pytest.mark.parametrize("error", [error for error, _ in RAISED])
def test_no_words_of_a_driver_reach_a_caller(error: BaseException) -> None:
    assert SECRET.encode() not in failure_of(error, REQUEST_ID).trailer


@pytest.mark.parametrize("error", [RuntimeError(SECRET), storage.Unexpected(SECRET)])
def test_a_fault_names_the_request_that_the_log_knows_it_by(error: BaseException) -> None:
    assert REQUEST_ID in failure_of(error, REQUEST_ID).message


@pytest.mark.parametrize(
    ("error", "metadata"),
    [
        (
            storage.InsufficientCredits(7, 5, 6),
            {"user_id": "7", "available": "5", "required": "6"},
        ),
        (storage.InactiveUser(7), {"user_id": "7"}),
        (storage.LinkedFailed(3), {"index": "3"}),
        (storage.HoldResolved(8, "released"), {"transfer_id": "8", "state": "released"}),
        (storage.AmountTooLarge(8, 5, 6), {"transfer_id": "8", "held": "5", "required": "6"}),
        (storage.Overflow("user 7"), {"whose": "user 7"}),
    ],
    ids=lambda value: getattr(type(value), "__name__", ""),
)
def test_what_was_in_the_way_of_credits_is_told(
    error: BaseException, metadata: dict[str, str]
) -> None:
    info, *_ = failure_of(error, REQUEST_ID).details
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert dict(info.metadata) == metadata


def test_an_account_that_is_not_empty_is_known_by_the_name_of_its_guard() -> None:
    failure = failure_of(of_sqlstate("23001", "byline_keep_credits"), REQUEST_ID)
    assert told(failure) == precondition("HAS_CREDITS")


def test_a_resource_is_named_as_the_caller_named_it() -> None:
    for error in (storage.NotFound("user", 7), storage.Stale("user", 7)):
        details = failure_of(error, REQUEST_ID).details
        (info,) = [each for each in details if isinstance(each, error_details_pb2.ResourceInfo)]
        assert (info.resource_type, info.resource_name) == ("user", "7")


def test_fields_that_differ_are_named_one_by_one() -> None:
    info, told_of = failure_of(errors.RequestIdReused(["password", "user.id"]), REQUEST_ID).details
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert dict(info.metadata) == {"fields": "password,user.id"}
    assert isinstance(told_of, error_details_pb2.PreconditionFailure)
    assert [each.subject for each in told_of.violations] == ["password", "user.id"]


def test_every_violation_is_told() -> None:
    violations = (errors.Violation("email", "is missing"), errors.Violation("ids[3]", "is 0"))
    _, told_of = failure_of(errors.InvalidRequest(*violations), REQUEST_ID).details
    assert isinstance(told_of, error_details_pb2.BadRequest)
    assert [(each.field, each.description) for each in told_of.field_violations] == [*violations]


def told(failure: Failure) -> tuple[Code, str, set[str]]:
    """Reads a failure's trailer as a caller does, and checks what holds for all of them."""
    status = status_pb2.Status.FromString(failure.trailer)
    assert status.code == failure.code.value[0]
    assert status.message == failure.message != ""
    first, *rest = status.details
    info = error_details_pb2.ErrorInfo()
    assert first.Unpack(info)
    assert info.domain == "byline"
    assert errors_pb2.ErrorReason.Value(f"ERROR_REASON_{info.reason}")
    names = [each.TypeName().removeprefix("google.rpc.") for each in rest]
    assert len(set(names)) == len(names)
    return failure.code, info.reason, set(names)
