"""A call: who made it, and what its time went into."""

from __future__ import annotations

import random
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

from storage.usage import Usage

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from grpc.aio import ServicerContext

    from service.tracing import Trace

    Context = ServicerContext[Any, Any]

REQUEST_ID = "x-request-id"
LONGEST_REQUEST_ID = 128
TIMING = "x-byline-timing"
EXPLAIN = "x-byline-explain"


@dataclass(slots=True)
class Call:
    """A call, kept up as it goes. Times are in seconds.

    Args:
        method: its path.
        request_id: the caller's, or one of ours.
        is_timed: whether the caller wants to be told what its time went into.
        is_explained: whether the caller wants to see the plans of its statements.
        queue: that it waited for its turn, and for that of its password.
        is_queued: whether it waits for its turn, or did when it was cut short.
        encoding: that reading its request and writing its response took.
        retries: times it was tried again after `Contention`.
        use: of the database.
        plans: lines of these plans, once it is over.
        trace: its span, where calls are traced.
        started: when it came, by `perf_counter`.
    """

    method: str
    request_id: str
    is_timed: bool = False
    is_explained: bool = False
    queue: float = 0.0
    is_queued: bool = False
    encoding: float = 0.0
    retries: int = 0
    use: Usage = field(default_factory=Usage)
    plans: list[str] = field(default_factory=list)
    trace: Trace | None = None
    started: float = field(default_factory=perf_counter)

    @classmethod
    def of(cls, method: str, context: Context) -> Call:
        """Returns the call that has just come, as its metadata tells of it."""
        request_id = ""
        is_timed = is_explained = False
        for key, value in context.invocation_metadata() or ():
            if key == REQUEST_ID and isinstance(value, str) and len(value) <= LONGEST_REQUEST_ID:
                request_id = request_id or value
            elif key == TIMING:
                is_timed = value == "1"
            elif key == EXPLAIN:
                is_explained = value == "1"
        ours = f"{random.getrandbits(64):016x}"
        return cls(method, request_id or ours, is_timed, is_explained)

    @property
    def seconds(self) -> float:
        """How long it has taken."""
        return perf_counter() - self.started

    @property
    def split(self) -> dict[str, float]:
        """What its time went into, in milliseconds; the rest is the service's own work."""
        return {
            "queue_ms": milliseconds(self.queue),
            "pool_ms": milliseconds(self.use.pool),
            "database_ms": milliseconds(self.use.database),
            "encoding_ms": milliseconds(self.encoding),
            "statements": self.use.statements,
            "retries": self.retries,
        }

    @property
    def trailers(self) -> tuple[tuple[str, str | bytes], ...]:
        """What its caller is told when it ends, however it ends."""
        told: tuple[tuple[str, str | bytes], ...] = ((REQUEST_ID, self.request_id),)
        if self.trace is not None:
            told += self.trace.metadata
        told += tuple((EXPLAIN, line) for line in self.plans)
        if not self.is_timed:
            return told
        parts = {"ms": milliseconds(self.seconds), **self.split}
        return (*told, (TIMING, " ".join(f"{name}={value}" for name, value in parts.items())))


# Nobody looks at the shared default, which stands for work that is no call's.
current: ContextVar[Call] = ContextVar("current", default=Call("", ""))  # noqa: B039 - so it is meant


def encoded(response: Message) -> bytes:
    """Writes a response, on the time of the call that is under way."""
    started = perf_counter()
    written = response.SerializeToString()
    current.get().encoding += perf_counter() - started
    return written


def milliseconds(seconds: float) -> float:
    """Returns a time as people read it."""
    return round(seconds * 1000, 3)
