"""What a run came to: what is written as JSON, and what tables and pages are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence  # noqa: TC003 - pydantic reads the annotations
from dataclasses import dataclass, fields
from statistics import median
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from bench.measurement import MICRO

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.measurement import Measurement

FLOOR, TUTORIAL, BYLINE = "floor", "tutorial", "byline"


@dataclass(frozen=True, slots=True)
class Figures:
    """A load on a server, per call where nothing else is said.

    Args:
        rate: calls a second that succeeded.
        server_us: CPU microseconds of the server.
        database_us: CPU microseconds of the database, all its processes.
        p50: milliseconds within which half of the calls were answered.
        p90: within which all but a tenth were.
        p99: within which all but a hundredth were.
        p999: within which all but a thousandth were.
        size: bytes of the answer.
        busy: CPU of the processes that the load came from, in cores.
        failed: the part of the calls that failed.
    """

    rate: float
    server_us: float
    database_us: float
    p50: float
    p90: float
    p99: float
    p999: float
    size: float
    busy: float
    failed: float

    @property
    def total_us(self) -> float:
        """CPU microseconds of server and database."""
        return self.server_us + self.database_us


@dataclass(frozen=True, slots=True)
class Entry:
    """A scenario on a server.

    Args:
        scenario: which.
        server: which.
        in_flight: calls under way at once.
        rounds: what each came to.
        median: of each figure over the rounds.
        errors: how many calls failed in all rounds, by status.
        statements: SQL statements for a call, beginnings and commits among them; None where nobody
            counts them.
    """

    scenario: str
    server: str
    in_flight: int
    rounds: Sequence[Figures]
    median: Figures
    errors: Mapping[str, int]
    statements: float | None


@dataclass(frozen=True, slots=True)
class Point:
    """An open loop: what was offered, and what came of it."""

    offered: float
    figures: Figures


@dataclass(frozen=True, slots=True)
class Curve:
    """A scenario on a server under more and more load."""

    scenario: str
    server: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Results:
    """A run.

    Args:
        started: when, in UTC.
        machine: what it ran on, and which versions.
        settings: how it was asked for.
        entries: every scenario on every server.
        curves: latency against offered load.
        memory: of each server: seconds since the start, and bytes resident.
        statement_ms: that GetUser's statement takes by itself, in the median of the rounds; None
            without PostgreSQL.
    """

    started: str
    machine: Mapping[str, str]
    settings: Mapping[str, str]
    entries: Sequence[Entry]
    curves: Sequence[Curve]
    memory: Mapping[str, Sequence[tuple[float, int]]]
    statement_ms: float | None

    @property
    def told(self) -> dict[str, str]:
        """What is said of the run beside its figures."""
        own = "" if self.statement_ms is None else f"{self.statement_ms:.2f} ms"
        return {**self.machine, **self.settings, "GetUser's statement by itself": own}

    def entry(self, scenario: str, server: str) -> Entry | None:
        """Returns a scenario on a server, if it was measured."""
        found = (
            each for each in self.entries if (each.scenario, each.server) == (scenario, server)
        )
        return next(found, None)

    def floors(self, entry: Entry) -> float | None:
        """Returns how often the floor's CPU the server takes for a call, round by round.

        None where the floor was not measured, or for less than the system's clock tells.
        """
        floor = self.entry(entry.scenario, FLOOR)
        if floor is None:
            return None
        pairs = zip(entry.rounds, floor.rounds, strict=True)
        return _ratio((one.server_us, other.server_us) for one, other in pairs)

    def tutorials(self, entry: Entry) -> float | None:
        """Returns how often the CPU of server and database the tutorial takes, round by round.

        None of the floor, which does less, and where nothing was measured, as for `floors`.
        """
        tutorial = self.entry(entry.scenario, TUTORIAL)
        if tutorial is None or entry.server == FLOOR:
            return None
        pairs = zip(entry.rounds, tutorial.rounds, strict=True)
        return _ratio((other.total_us, one.total_us) for one, other in pairs)


def _ratio(rounds: Iterable[tuple[float, float]]) -> float | None:
    ratios = [one / other for one, other in rounds if other]
    return median(ratios) if ratios else None


RESULTS = TypeAdapter(Results)


def figures(measured: Measurement) -> Figures:
    """Returns what a load came to, for a call."""
    calls = measured.calls
    return Figures(
        rate=calls / measured.seconds,
        server_us=measured.server / calls * MICRO,
        database_us=measured.database / calls * MICRO,
        p50=measured.quantile(0.5),
        p90=measured.quantile(0.9),
        p99=measured.quantile(0.99),
        p999=measured.quantile(0.999),
        size=measured.received / calls,
        busy=measured.load / measured.seconds,
        failed=(failed := sum(measured.errors.values())) / (calls + failed),
    )


def middle(rounds: Sequence[Figures]) -> Figures:
    """Returns the median of each figure."""
    names = [each.name for each in fields(Figures)]
    return Figures(**{name: median(getattr(each, name) for each in rounds) for name in names})
