"""What one scenario came to in one round, and in all of them."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - pydantic reads the annotations
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from bench.measurement import MICRO

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Measurement:
    """One scenario in one round.

    Args:
        transfers: that were made.
        seconds: that it took.
        p50: milliseconds within which half of the calls were answered.
        p99: milliseconds within which all but a hundredth were.
        errors: how many calls failed, by status.
        server: CPU seconds of the server; 0 where there is none.
        database: CPU seconds of PostgreSQL, all its processes.
        load: CPU seconds of the process that the load came from.
    """

    transfers: int
    seconds: float
    p50: float
    p99: float
    errors: Mapping[str, int]
    server: float
    database: float
    load: float

    @property
    def rate(self) -> float:
        """Transfers a second."""
        return self.transfers / self.seconds

    @property
    def server_us(self) -> float:
        """CPU microseconds of the server for a transfer."""
        return self.server / self.transfers * MICRO

    @property
    def database_us(self) -> float:
        """CPU microseconds of PostgreSQL for a transfer."""
        return self.database / self.transfers * MICRO

    @property
    def busy(self) -> float:
        """The part of one core that the load took."""
        return self.load / self.seconds


@dataclass(frozen=True, slots=True)
class Summary:
    """One scenario over all rounds: medians, and all errors together."""

    rate: float
    server_us: float
    database_us: float
    p50: float
    p99: float
    busy: float
    errors: int


def summary(rounds: Sequence[Measurement]) -> Summary:
    """Returns what the rounds came to."""
    return Summary(
        rate=median(each.rate for each in rounds),
        server_us=median(each.server_us for each in rounds),
        database_us=median(each.database_us for each in rounds),
        p50=median(each.p50 for each in rounds),
        p99=median(each.p99 for each in rounds),
        busy=median(each.busy for each in rounds),
        errors=sum(sum(each.errors.values()) for each in rounds),
    )
