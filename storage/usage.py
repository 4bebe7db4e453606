"""What a caller uses of the database: what it waits for, for how long, and until when."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Wait(StrEnum):
    """What a caller of storage is waiting for."""

    NOTHING = "nothing"
    POOL = "pool"
    LOCK = "lock"
    STATEMENT = "statement"


@dataclass(slots=True)
class Usage:
    """What one caller has used of the database, kept up as it goes. Times are in seconds.

    Args:
        waiting_for: what it waits for, or waited for when it was cancelled.
        pool: how long it has waited for connections.
        database: how long it has waited for the database.
        statements: how many statements it has sent.
        deadline: when it leaves, by `time.monotonic`; what is begun for it is told.
    """

    waiting_for: Wait = Wait.NOTHING
    pool: float = 0.0
    database: float = 0.0
    statements: int = 0
    deadline: float = math.inf


# A caller that wants to know sets its own; without one, nobody looks at the shared default.
usage: ContextVar[Usage] = ContextVar("usage")


def seconds_left() -> float:
    """Returns the seconds until the caller leaves: infinitely many if it has no deadline."""
    use = usage.get(None)
    return math.inf if use is None else use.deadline - time.monotonic()


@contextmanager
def waiting_for(what: Wait) -> Iterator[Usage]:
    """Keeps up the caller's usage. A wait that is cut short stays what the caller waited for."""
    use = usage.get(None) or Usage()
    use.waiting_for = what
    started = time.perf_counter()
    try:
        yield use
        use.waiting_for = Wait.NOTHING
    except Exception:
        use.waiting_for = Wait.NOTHING
        raise
    finally:
        seconds = time.perf_counter() - started
        if what is Wait.POOL:
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
