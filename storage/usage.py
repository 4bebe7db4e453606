"""What is used of a database: by each caller, and by all of them, in plain counters to be read."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from sqlalchemy import ClauseElement, Dialect, Executable

    Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None

COMMIT = "commit"


class Wait(StrEnum):
    """What a caller of storage is waiting for."""

    NOTHING = "nothing"
    POOL = "pool"
    LOCK = "lock"
    STATEMENT = "statement"


class Sent(NamedTuple):
    """A statement that was sent, without its values.

    Args:
        statement: what it is.
        columns: the names of its parameters; None if it has those of its own.
        dialect: how it is written.
    """

    statement: Executable
    columns: tuple[str, ...] | None
    dialect: Dialect

    @classmethod
    def of(cls, statement: Executable, parameters: Parameters, dialect: Dialect) -> Sent:
        """Returns what is told of a statement."""
        first = parameters[0] if parameters and isinstance(parameters, list) else parameters
        return cls(statement, tuple(first) if first and isinstance(first, dict) else None, dialect)

    def __str__(self) -> str:
        """Returns its SQL, in which placeholders stand for all values."""
        compiled = cast("ClauseElement", self.statement).compile(
            dialect=self.dialect, column_keys=self.columns
        )
        return str(compiled)


@dataclass(slots=True)
class Usage:
    """What one caller has used of the database, kept up as it goes. Times are in seconds.

    Args:
        waiting_for: what it waits for, or waited for when it was cancelled.
        pool: how long it has waited for connections.
        database: how long it has waited for the database.
        statements: how many statements it has sent.
        sent: which.
        deadline: when it leaves, by `time.monotonic`; what is begun for it is told.
    """

    waiting_for: Wait = Wait.NOTHING
    pool: float = 0.0
    database: float = 0.0
    statements: int = 0
    sent: list[Sent] = field(default_factory=list)
    deadline: float = math.inf


# A caller that wants to know sets its own; without one, nobody looks at the shared default.
usage: ContextVar[Usage] = ContextVar("usage")


def seconds_left() -> float:
    """Returns the seconds until the caller leaves: infinitely many if it has no deadline."""
    use = usage.get(None)
    return math.inf if use is None else use.deadline - time.monotonic()


@dataclass(slots=True)
class Spent:
    """What something took in all.

    Args:
        waiting: callers who wait for it.
        times: waits that have ended.
        seconds: that these took.
    """

    waiting: int = 0
    times: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Figures:
    """What the callers of one database waited for.

    Args:
        pool: connections.
        functions: statements, by the function of storage that sent them, as `users.get`; what ends
            transactions by `COMMIT`, and what no function sent by `storage.stack.OTHER`.
    """

    pool: Spent = field(default_factory=Spent)
    functions: defaultdict[str, Spent] = field(default_factory=lambda: defaultdict(Spent))


class waiting_for:  # noqa: N801 - reads as the context that it is
    """Keeps up the caller's usage, and what was spent by all callers.

    A wait that is cut short stays what the caller waited for.
    """

    __slots__ = ("_spent", "_started", "_use", "_what")

    def __init__(self, what: Wait, spent: Spent | None = None) -> None:
        self._what = what
        self._spent = Spent() if spent is None else spent

    def __enter__(self) -> Usage:
        """Begins the wait, and returns the caller's usage."""
        use = usage.get(None)
        self._use = use = Usage() if use is None else use
        use.waiting_for = self._what
        self._spent.waiting += 1
        self._started = time.perf_counter()
        return use

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the wait."""
        seconds = time.perf_counter() - self._started
        use, spent = self._use, self._spent
        if error is None or isinstance(error, Exception):
            use.waiting_for = Wait.NOTHING
        spent.waiting -= 1
        spent.times += 1
        spent.seconds += seconds
        if self._what is Wait.POOL:
            use.pool += seconds
        else:
            use.database += seconds


@contextmanager
def statement_waits_for_a_lock() -> Iterator[None]:
    """Says what the caller's statement is at in the block, whose time counts as the statement's."""
    use = usage.get(None) or Usage()
    use.waiting_for = Wait.LOCK
    try:
        yield
    except Exception:
        use.waiting_for = Wait.STATEMENT
        raise
    else:
        use.waiting_for = Wait.STATEMENT
