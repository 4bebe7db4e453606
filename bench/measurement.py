"""What a load on a server came to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence  # noqa: TC003 - pydantic reads the annotations
from dataclasses import dataclass

MILLI, MICRO = 1e3, 1e6
MIB = 1 << 20


class BenchError(Exception):
    """The measurement is worth nothing, for the reason in its message."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A load from its first call to its last answer.

    Args:
        latencies: milliseconds that each call took that succeeded, in order of size.
        errors: how many calls failed, by status.
        failures: milliseconds that each of them took, in order of size.
        seconds: that it took.
        received: bytes of the answers.
        server: CPU seconds of the server.
        database: CPU seconds of the database, all its processes.
        load: CPU seconds of the processes that the load came from.
        memory: bytes that the server has resident, before and after.
    """

    latencies: Sequence[float]
    errors: Mapping[str, int]
    failures: Sequence[float]
    seconds: float
    received: int
    server: float
    database: float
    load: float
    memory: tuple[int, int]

    @property
    def calls(self) -> int:
        """Calls that succeeded."""
        return len(self.latencies)

    def quantile(self, part: float) -> float:
        """Returns the milliseconds within which this part of the calls were answered."""
        return quantile(self.latencies, part)


def quantile(ordered: Sequence[float], part: float) -> float:
    """Returns the value that this part of all are not above; they come in order."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]
