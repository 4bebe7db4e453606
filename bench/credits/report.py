"""What was measured, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.table import Table

from bench.credits.measurement import summary
from bench.credits.scenarios import COMPARED, Pattern, Scenario
from bench.machine import machine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.credits.measurement import Measurement
    from bench.credits.scenarios import Way

    Results = Mapping[Scenario, Sequence[Measurement]]

COLUMNS = ("/s", "server", "database", "p50", "p99", "errors", "load")
CAPTION = (
    "transfers/s; CPU us of server and PostgreSQL for each; latency of a call in ms; "
    "CPU of the load in cores"
)


@dataclass(frozen=True, slots=True)
class Ratio:
    """One way against another, round by round: the median of the rounds.

    Args:
        pattern: of both.
        way: the one that is compared.
        to: the one that it is compared to.
        rate: how often as many transfers a second.
        cpu: which part of the CPU time, of server and PostgreSQL, for a transfer.
    """

    pattern: Pattern
    way: Way
    to: Way
    rate: float
    cpu: float


def ratios(results: Results) -> list[Ratio]:
    """Returns how the ways compare."""
    found = []
    for pattern in Pattern:
        for way, to in COMPARED:
            ones, others = (results.get(Scenario(pattern, each)) for each in (way, to))
            if ones and others:
                pairs = list(zip(ones, others, strict=True))
                rate = median(one.rate / other.rate for one, other in pairs)
                cpu = median(_cpu_us(one) / _cpu_us(other) for one, other in pairs)
                found.append(Ratio(pattern, way, to, rate, cpu))
    return found


def table(results: Results) -> Table:
    """Returns the scenarios, a row each, in medians of the rounds."""
    made = Table("", "", *COLUMNS, box=SIMPLE, collapse_padding=True, caption=CAPTION)
    for column in made.columns[2:]:
        column.justify = "right"
    for scenario, rounds in results.items():
        found = summary(rounds)
        made.add_row(
            *(scenario.pattern, scenario.way),
            *(f"{each:,.0f}" for each in (found.rate, found.server_us, found.database_us)),
            *(f"{each:,.1f}" for each in (found.p50, found.p99)),
            str(found.errors),
            f"{found.busy:.2f}",
        )
    return made


def comparison(results: Results) -> Table:
    """Returns the ratios, a row each."""
    made = Table("", "", "over", "transfers/s", "CPU", box=SIMPLE)
    for each in ratios(results):
        made.add_row(each.pattern, each.way, each.to, f"{each.rate:.2f}x", f"{each.cpu:.2f}x")
    return made


def as_json(results: Results, settings: Mapping[str, object]) -> dict[str, Any]:
    """Returns everything: machine and settings, each round, the medians and the ratios."""
    return {
        "machine": machine(),
        "settings": settings,
        "scenarios": [
            {
                "name": scenario.name,
                **asdict(scenario),
                "median": asdict(summary(rounds)),
                "rounds": [asdict(each) for each in rounds],
            }
            for scenario, rounds in results.items()
        ],
        "ratios": [asdict(each) for each in ratios(results)],
    }


def _cpu_us(measured: Measurement) -> float:
    return measured.server_us + measured.database_us
