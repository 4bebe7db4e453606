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
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    from sqlalchemy import ClauseElement, Dialect, Executable

    Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None

COMMIT = "commit"
# Seconds, at most, that the database gives up before its caller's deadline.
MARGIN = 0.1
# The least that databases take for a bound, in seconds.
LEAST = 0.001


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
class Run:
    """A statement that was run, or the end of a transaction.

    Args:
        function: of storage, as `users.get`; `COMMIT` for the end of a transaction.
        sent: what was sent; None for the end of a transaction.
        sql: as the driver had it, placeholders and all; None until it did.
        parameters: that the driver had beside it.
        started: when, by `time.perf_counter`.
        seconds: that it took.
        failure: which error ended it; empty if none did.
    """

    function: str
    sent: Sent | None = None
    sql: str | None = None
    parameters: Any = None
    started: float = 0.0
    seconds: float = 0.0
    failure: str = ""

    def tell(self, sql: str | None, parameters: object) -> None:
        """Keeps what the driver had."""
        self.sql = sql
        self.parameters = parameters

    def __str__(self) -> str:
        """Returns its SQL, in which placeholders stand for all values."""
        return self.sql or (str(self.sent) if self.sent else self.function.upper())


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
        runs: the statements with their times and parameters; None unless somebody wants them.
    """

    waiting_for: Wait = Wait.NOTHING
    pool: float = 0.0
    database: float = 0.0
    statements: int = 0
    sent: list[Sent] = field(default_factory=list)
    deadline: float = math.inf
    runs: list[Run] | None = None

    @classmethod
    def shared_by(cls, callers: Iterable[Usage]) -> Usage:
        """Returns what is kept up for several callers at once; it has runs if any of them wants."""
        return cls(runs=[] if any(each.runs is not None for each in callers) else None)

    def add_shared(self, other: Usage) -> None:
        """Adds the statements that were sent for this caller and for others at once."""
        self.statements += other.statements
        self.sent += other.sent
        if self.runs is not None:
            self.runs += other.runs or ()


# A caller that wants to know sets its own; without one, nobody looks at the shared default.
usage: ContextVar[Usage] = ContextVar("usage")


def begin_run(function: str, sent: Sent | None = None) -> Run | None:
    """Returns what a statement of the caller's is to be noted in, None if nobody wants to know."""
    use = usage.get(None)
    if use is None or use.runs is None:
        return None
    run = Run(function, sent)
    use.runs.append(run)
    return run


def seconds_left() -> float:
    """Returns the seconds until the caller leaves: infinitely many if it has no deadline."""
    use = usage.get(None)
    return math.inf if use is None else use.deadline - time.monotonic()


def margin(left: float) -> float:
    """Returns what is kept of the seconds a caller has left, to tell it what they went into."""
    return min(left / 10, MARGIN)


def bound(seconds: float) -> float | None:
    """Returns how long something may take if its caller is to be told of it; None for no bound.

    Args:
        seconds: that it may take anyway; 0 for no bound.
    """
    left = seconds_left()
    closer = min(seconds or math.inf, left - margin(left))
    return None if math.isinf(closer) else max(LEAST, closer)


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
    """Keeps up the caller's usage, what was spent by all callers, and what a run took.

    A wait that is cut short stays what the caller waited for.
    """

    __slots__ = ("_run", "_spent", "_started", "_use", "_what")

    def __init__(self, what: Wait, spent: Spent | None = None, run: Run | None = None) -> None:
        self._what = what
        self._spent = Spent() if spent is None else spent
        self._run = run

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
        if self._run is not None:
            self._run.started, self._run.seconds = self._started, seconds
            if error is not None:
                self._run.failure = type(error).__name__
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
