"""What got slower between two runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich.box import SIMPLE
from rich.table import Table

from bench.results import FLOOR, TUTORIAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.results import Entry, Results


class Change(NamedTuple):
    """A scenario on a server in both runs.

    Its cost is the CPU of server and database for a call, by that of the floor in the same run:
    what else the machine did, and which machine it was, meets both sides of it. Without the floor
    in both runs it is microseconds.
    """

    scenario: str
    server: str
    before: float
    after: float

    @property
    def ratio(self) -> float:
        """How often the cost it is of what it was."""
        return self.after / self.before

    def is_slower(self, threshold: float) -> bool:
        """Whether it costs more than before, by more than this part of that."""
        return self.ratio > 1 + threshold


def changes(old: Results, new: Results) -> list[Change]:
    """Returns how what both runs measured has changed; what Byline is compared to is left out."""
    found = []
    for after in new.entries:
        before = old.entry(after.scenario, after.server)
        if before is None or after.server in {FLOOR, TUTORIAL}:
            continue
        floors = [run.entry(after.scenario, FLOOR) for run in (old, new)]
        units = [each.median.server_us for each in floors if each is not None]
        if len(units) < len(floors):
            units = [1.0, 1.0]
        costs = _cost(before) / units[0], _cost(after) / units[1]
        found.append(Change(after.scenario, after.server, *costs))
    return found


def table(found: Sequence[Change], threshold: float) -> Table:
    """Returns the changes, a row each, the worst first."""
    caption = "CPU of server and database for a call, by that of the floor in the same run"
    made = Table("", "", "before", "after", "", "", box=SIMPLE, caption=caption)
    for each in sorted(found, key=lambda change: -change.ratio):
        verdict = "slower" if each.is_slower(threshold) else ""
        made.add_row(
            each.scenario,
            each.server,
            f"{each.before:.2f}",
            f"{each.after:.2f}",
            f"{each.ratio - 1:+.0%}",
            verdict,
        )
    return made


def _cost(entry: Entry) -> float:
    return entry.median.total_us
