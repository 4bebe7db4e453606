"""What storage can refuse, and how the database's own errors become it.

Driver errors are told apart by SQLSTATE and constraint name, never by message text.
"""

from asyncpg import InvalidCachedStatementError
from sqlalchemy.exc import DBAPIError

from storage.dialects.errors import UNIQUE_VIOLATION, cause_of

# The unique keys by constraint name: which resource and which of its fields a caller knows them by.
UNIQUE_KEYS = {
    "uq_users_email_key": ("user", "email"),
    "uq_users_username_key": ("user", "username"),
    "uq_tags_name_key": ("tag", "name"),
}


class StorageError(Exception):
    """The base of everything that storage raises on purpose."""


class NotFound(StorageError):
    """There is no such row.

    Args:
        resource: what was looked for, in the singular: `user`.
        name: the key it was looked for by, as the caller gave it.
    """

    def __init__(self, resource: str, name: object) -> None:
        super().__init__(f"{resource} {name} does not exist")
        self.resource = resource
        self.name = str(name)


class AlreadyExists(StorageError):
    """Another row has the same unique value.

    Args:
        resource: what it is that exists: `user`.
        field: the field whose value is taken: `email`.
    """

    def __init__(self, resource: str, field: str) -> None:
        super().__init__(f"a {resource} with this {field} already exists")
        self.resource = resource
        self.field = field


class StillReferenced(StorageError):
    """Another row refers to this one, so it cannot go."""


class TooManyTags(StorageError):
    """The post would have more tags than a post may have.

    Args:
        most: how many it may have.
    """

    def __init__(self, most: int) -> None:
        super().__init__(f"a post has at most {most} tags")


class Stale(StorageError):
    """The row has changed since the caller read it."""

    def __init__(self, resource: str, name: object) -> None:
        super().__init__(f"{resource} {name} has changed since it was read")
        self.resource = resource
        self.name = str(name)


class InsufficientCredits(StorageError):
    """A user can spend less than a transfer takes."""

    def __init__(self, user_id: int, available: int, required: int) -> None:
        super().__init__(f"user {user_id} has {available} credits available, not {required}")
        self.user_id = user_id
        self.available = available
        self.required = required


class InactiveUser(StorageError):
    """A user who is to send or to receive credits is inactive."""

    def __init__(self, user_id: int) -> None:
        super().__init__(f"user {user_id} is inactive, and can neither send nor receive credits")
        self.user_id = user_id


class LinkedFailed(StorageError):
    """Another transfer of the same atomic batch failed.

    Args:
        index: the place of the first that failed, from 0.
    """

    def __init__(self, index: int) -> None:
        super().__init__(f"transfer {index} of the batch failed, so none was made")
        self.index = index


class HoldResolved(StorageError):
    """A transfer is not pending, so it can be neither captured nor released.

    Args:
        transfer_id: which transfer.
        state: the state that it is in.
    """

    def __init__(self, transfer_id: int, state: str) -> None:
        super().__init__(f"transfer {transfer_id} is {state}, not pending")
        self.transfer_id = transfer_id
        self.state = state


class AmountTooLarge(StorageError):
    """More is to be captured than is held."""

    def __init__(self, transfer_id: int, held: int, required: int) -> None:
        super().__init__(f"transfer {transfer_id} holds {held} credits, not {required}")
        self.transfer_id = transfer_id
        self.held = held
        self.required = required


class Overflow(StorageError):
    """A sum of credits would be more than 64 bits can hold.

    Args:
        whose: whose credits it is the sum of.
    """

    def __init__(self, whose: str) -> None:
        super().__init__(f"the credits of {whose} would be more than 2^63-1")
        self.whose = whose


class HasCredits(StorageError):
    """A user has credits, or holds that are pending, so they cannot go."""


class Contention(StorageError):
    """Others were in the way, of whom nothing is left the next time: another try may succeed.

    A serialization failure, a deadlock, a lost race, a new schema, or a table to be opened anew.
    """


class PoolTimeout(StorageError):
    """No connection came free within the pool's wait."""


class LockTimeout(StorageError):
    """A lock was not granted within lock_timeout."""


class StatementTimeout(StorageError):
    """A statement ran into statement_timeout."""


class DatabaseDown(StorageError):
    """The database cannot be reached, is shutting down, is read-only or has no room."""


class Unexpected(StorageError):
    """An error of the database that no caller can cause: a fault in Byline or in its schema."""


_BY_SQLSTATE: dict[str, type[StorageError]] = {
    "23001": StillReferenced,  # restrict_violation
    "23503": StillReferenced,  # foreign_key_violation
    "25006": DatabaseDown,  # read_only_sql_transaction: a standby, after a failover
    "25P03": DatabaseDown,  # idle_in_transaction_session_timeout: the session was ended
    "3D000": DatabaseDown,  # invalid_catalog_name: the database is not there
    "40001": Contention,  # serialization_failure
    "40P01": Contention,  # deadlock_detected
    "55P03": LockTimeout,  # lock_not_available
    "57014": StatementTimeout,  # query_canceled
}

_BY_CLASS: dict[str, type[StorageError]] = {
    "08": DatabaseDown,  # connection exception
    "28": DatabaseDown,  # invalid authorization
    "40": Contention,  # transaction rollback
    "53": DatabaseDown,  # insufficient resources: connections, disk, memory
    "57": DatabaseDown,  # operator intervention: shutdown, crash, not accepting connections
    "58": DatabaseDown,  # system error outside the database
}

# What the database's own triggers refuse, by the name that they give.
_BY_CONSTRAINT: dict[str, type[StorageError]] = {
    "byline_keep_credits": HasCredits,
    "byline_keep_ledger": Unexpected,
}


def of_sqlstate(sqlstate: str, constraint: str = "") -> StorageError:
    """Returns the storage error that a SQLSTATE means.

    Args:
        sqlstate: five characters, by PostgreSQL's Appendix A.
        constraint: the name of the constraint that was broken, if one was.
    """
    if sqlstate == UNIQUE_VIOLATION and constraint in UNIQUE_KEYS:
        return AlreadyExists(*UNIQUE_KEYS[constraint])
    kind = (
        _BY_CONSTRAINT.get(constraint)
        or _BY_SQLSTATE.get(sqlstate)
        or _BY_CLASS.get(sqlstate[:2])
        or Unexpected
    )
    return kind(f"SQLSTATE {sqlstate}")


def translate(error: DBAPIError) -> StorageError:
    """Returns the storage error that a driver error means.

    It is to be raised `from None`: the driver's text quotes whole rows, password hashes among them.
    What can be told of the driver error, the storage error's notes tell.
    """
    if error.connection_invalidated:
        return DatabaseDown("the connection was lost")
    return meaning_of(getattr(error.orig, "driver_exception", None) or error.orig, error.statement)


def meaning_of(error: BaseException | None, statement: str | None) -> StorageError:
    """Returns the storage error that an error of a driver's own means, as `translate` does."""
    if isinstance(error, InvalidCachedStatementError):
        # A migration changed a type that the statement returns. Every connection prepares its
        # statements anew when it meets this.
        return Contention("the schema changed since the statement was prepared")
    sqlstate, constraint = cause_of(error)
    kind = type(error).__name__
    meant = Unexpected(kind) if sqlstate is None else of_sqlstate(sqlstate, constraint)
    meant.add_note(f"{kind} {constraint} in: {statement}")
    return meant
