"""What a server has done and how it stands, as Prometheus reads it.

Calls are counted in plain numbers, by the one thread that serves them, and made into metrics when
somebody asks: prometheus_client's own counters take a lock each time, and cost a call more.

They are written on the event loop that serves the calls, slice by slice, so that no call waits for
the whole page. A thread would hold Python's lock for 5 ms at a time, and the loop as long.
"""

from __future__ import annotations

import asyncio
import platform
from bisect import bisect_left
from importlib.metadata import version
from itertools import accumulate, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    SummaryMetricFamily,
)

from service.policy import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from prometheus_client import Metric

    from service.admission import Admission
    from service.errors import Code
    from service.passwords import Passwords
    from storage.database import Database
    from storage.gathering import Alone, Together
    from storage.usage import Figures

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BYTES = (64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304)
TRANSFERS = (1, 2, 5, 10, 20, 50, 100)
METHOD = ("grpc_type", "grpc_service", "grpc_method")
# Series that are written at once: a histogram's take 0.2 ms each.
SLICE = 5


class Tally:
    """Numbers, counted by which bounds they are within.

    Args:
        bounds: in rising order; what is above the last has a place of its own.
    """

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, number: float, times: int = 1) -> None:
        """Counts a number."""
        self._counts[bisect_left(self._bounds, number)] += times
        self._sum += number * times

    @property
    def total(self) -> int:
        """How many numbers were counted."""
        return sum(self._counts)

    @property
    def figures(self) -> tuple[list[tuple[str, float]], float]:
        """What a histogram takes: how many numbers are within each bound, and the sum of all."""
        within = zip((*self._bounds, "+Inf"), accumulate(self._counts), strict=True)
        return [(str(bound), count) for bound, count in within], self._sum


class Method:
    """The calls of one method.

    Args:
        path: `/byline.v1.UserService/GetUser`.
    """

    def __init__(self, path: str) -> None:
        self.labels = ("unary", *path.removeprefix("/").split("/"))
        self.started = 0
        self.retries = 0
        self.received = Tally(BYTES)
        self.sent = Tally(BYTES)
        self.seconds: dict[Code, Tally] = {}

    def begin(self, size: int) -> None:
        """Counts a call that has come, with a request of so many bytes."""
        self.started += 1
        self.received.add(size)

    @property
    def under_way(self) -> int:
        """How many calls have come and not ended."""
        return self.started - sum(each.total for each in self.seconds.values())

    def end(self, code: Code, seconds: float, retries: int) -> None:
        """Counts a call that has ended."""
        taken = self.seconds.get(code)
        if taken is None:
            taken = self.seconds[code] = Tally(SECONDS)
        taken.add(seconds)
        self.retries += retries


class Metrics:
    """Everything that is counted in one server."""

    def __init__(self) -> None:
        self.lag = Tally(SECONDS)
        self._methods: dict[str, Method] = {}
        self._registry = CollectorRegistry()
        self._registry.register(_Calls(self._methods, self.lag))
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def method(self, path: str) -> Method:
        """Returns what counts the calls of a method."""
        return self._methods.setdefault(path, Method(path))

    def look_at(
        self,
        admission: Admission,
        database: Database,
        transfers: Alone | Together,
        passwords: Passwords,
    ) -> None:
        """Has the parts of a server tell how they stand, whenever somebody asks."""
        self._registry.register(_Parts(admission, database, transfers, passwords))

    async def page(self) -> bytes:
        """Returns all of it in Prometheus' text format, and lets others at the loop meanwhile."""
        written = []
        for each in self.slices():
            written.append(each)
            await asyncio.sleep(0)
        return b"".join(written)

    def slices(self) -> Iterator[bytes]:
        """Yields all of it in Prometheus' text format, a few series at a time."""
        before = ""
        for family in self._registry.collect():
            text = generate_latest(_One(family))
            if family.name == before:
                # What follows in a family has its two lines of heading already.
                text = text.split(b"\n", 2)[2]
            before = family.name
            yield text


class _One:
    """What prometheus_client writes a single family of."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family


class _Calls:
    """The metrics of calls."""

    def __init__(self, methods: Mapping[str, Method], lag: Tally) -> None:
        self._methods = methods
        self._lag = lag

    def collect(self) -> Iterator[Metric]:
        # Calls that come while a page is written may be the first of their method or code.
        methods = list(self._methods.values())
        ended = [
            ((*each.labels, code.name), seconds)
            for each in methods
            for code, seconds in each.seconds.items()
        ]
        yield from _sliced(
            CounterMetricFamily,
            "grpc_server_started",
            "calls that have come",
            METHOD,
            ((each.labels, each.started) for each in methods),
        )
        yield from _sliced(
            CounterMetricFamily,
            "grpc_server_handled",
            "calls that have ended, by the code that their callers got",
            (*METHOD, "grpc_code"),
            ((labels, seconds.total) for labels, seconds in ended),
        )
        yield from _sliced(
            HistogramMetricFamily,
            "grpc_server_handling_seconds",
            "seconds from when a call came to when it ended",
            (*METHOD, "grpc_code"),
            ((labels, *seconds.figures) for labels, seconds in ended),
        )
        yield from _sliced(
            HistogramMetricFamily,
            "grpc_server_msg_received_bytes",
            "sizes of requests",
            METHOD,
            ((each.labels, *each.received.figures) for each in methods),
        )
        yield from _sliced(
            HistogramMetricFamily,
            "grpc_server_msg_sent_bytes",
            "sizes of responses",
            METHOD,
            ((each.labels, *each.sent.figures) for each in methods),
        )
        yield from _sliced(
            GaugeMetricFamily,
            "grpc_server_in_flight",
            "calls that have come and not ended",
            METHOD,
            ((each.labels, each.under_way) for each in methods),
        )
        yield from _sliced(
            CounterMetricFamily,
            "byline_contention_retries",
            "times a call was tried again because others were in the way of its transaction",
            METHOD,
            ((each.labels, each.retries) for each in methods),
        )
        yield from _sliced(
            HistogramMetricFamily,
            "byline_event_loop_lag_seconds",
            "seconds by which the event loop was late, looked at ten times a second",
            (),
            [((), *self._lag.figures)],
        )


class _Parts:
    """The metrics of the parts of a server: shares, pool, statements, transfers and passwords."""

    def __init__(
        self,
        admission: Admission,
        database: Database,
        transfers: Alone | Together,
        passwords: Passwords,
    ) -> None:
        self._admission = admission
        self._database = database
        self._transfers = transfers
        self._passwords = passwords

    def collect(self) -> Iterator[Metric]:
        yield from _of_admission(self._admission)
        yield from _of_pool(self._database)
        yield from _of_statements(self._database.figures)
        batches = Tally(TRANSFERS)
        for size, number in self._transfers.batches.items():
            batches.add(size, number)
        yield from _sliced(
            HistogramMetricFamily,
            "byline_transfer_batch_size",
            "transfers of the Transfer RPC that one transaction made",
            (),
            [((), *batches.figures)],
        )
        yield GaugeMetricFamily(
            "byline_passwords_at_work", "passwords that are hashed", self._passwords.at_work
        )
        yield GaugeMetricFamily(
            "byline_passwords_waiting", "passwords that wait to be hashed", self._passwords.waiting
        )
        yield InfoMetricFamily(
            "byline_build",
            "what it is that runs",
            {
                "version": version("byline"),
                "python": platform.python_version(),
                "grpc": version("grpcio"),
                "database": self._database.engine.dialect.name,
            },
        )


def _of_admission(admission: Admission) -> Iterator[Metric]:
    gates = [(name_of(access), gate) for access, gate in admission.gates.items()]
    for name, text, standing in (
        ("limit", "calls that may be under way at once", attrgetter("limit")),
        ("under_way", "calls that were taken on and have not ended", attrgetter("under_way")),
        ("queued", "calls that wait to be taken on", attrgetter("waiting")),
    ):
        values = (((access,), standing(gate)) for access, gate in gates)
        yield from _sliced(GaugeMetricFamily, f"byline_calls_{name}", text, ("access",), values)
    yield from _sliced(
        CounterMetricFamily,
        "byline_calls_shed",
        "calls that were not taken on, by why",
        ("access", "reason"),
        (
            ((name_of(access), reason), number)
            for access in admission.gates
            for reason, number in admission.shed(access).items()
        ),
    )


def _of_pool(database: Database) -> Iterator[Metric]:
    pool, waits = database.pool, database.figures.pool
    for name, text, value in (
        ("limit", "database connections that the pool opens at most", pool.limit),
        ("open", "database connections that the pool has open", pool.open),
        ("checked_out", "database connections that somebody has", pool.on_loan),
        ("waiting", "callers who wait for a database connection", waits.waiting),
    ):
        yield GaugeMetricFamily(f"byline_pool_{name}", text, value)
    yield SummaryMetricFamily(
        "byline_pool_wait_seconds",
        "seconds that callers waited for a database connection, with opening it where none is open",
        count_value=waits.times,
        sum_value=waits.seconds,
    )


def _of_statements(figures: Figures) -> Iterator[Metric]:
    functions = list(figures.functions.items())
    yield from _sliced(
        SummaryMetricFamily,
        "byline_statement_seconds",
        "seconds of SQL statements, by the function of storage that sent them",
        ("function",),
        (((name,), spent.times, spent.seconds) for name, spent in functions),
    )
    yield from _sliced(
        GaugeMetricFamily,
        "byline_statements_under_way",
        "SQL statements that are under way",
        ("function",),
        (((name,), spent.waiting) for name, spent in functions),
    )


def _sliced(
    kind: Callable[..., Any],
    name: str,
    text: str,
    labels: Sequence[str],
    series: Iterable[tuple[Any, ...]],
) -> Iterator[Metric]:
    """Yields a family of metrics a few series at a time, and once if it has none.

    Args:
        kind: makes a family.
        name: of the family.
        text: what it is.
        labels: their names.
        series: each the values of the labels, and the figures that this kind takes.
    """
    rest = iter(series)
    some = list(islice(rest, SLICE))
    while True:
        family = kind(name, text, labels=labels)
        for each in some:
            family.add_metric(*each)
        yield family
        some = list(islice(rest, SLICE))
        if not some:
            return
