"""The results as a table for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.table import Table

if TYPE_CHECKING:
    from bench.results import Entry, Results

CAPTION = (
    "CPU us of the server and of the database for a call; floors: the server's CPU by that of the "
    "floor; less: how often the tutorial's CPU, of server and database, is ours; p: latency in ms; "
    "load: CPU of the processes that make it, in cores"
)
COLUMNS = ("/s", "server", "database", "floors", "less", "p50", "p90", "p99", "p99.9")
MORE = ("SQL", "bytes", "load", "failed")


def table(results: Results) -> Table:
    """Returns every scenario on every server, a row each, in medians of the rounds."""
    made = Table("", "", *COLUMNS, *MORE, box=SIMPLE, collapse_padding=True, caption=CAPTION)
    for column in made.columns[2:]:
        column.justify = "right"
    shown = ""
    for entry in results.entries:
        if shown and entry.scenario != shown:
            made.add_section()
        made.add_row(
            "" if entry.scenario == shown else entry.scenario, entry.server, *row(results, entry)
        )
        shown = entry.scenario
    return made


def row(results: Results, entry: Entry) -> list[str]:
    """Returns what the columns say of a scenario on a server."""
    found, statements = entry.median, entry.statements
    return [
        *(f"{each:,.0f}" for each in (found.rate, found.server_us, found.database_us)),
        *(_ratio(each) for each in (results.floors(entry), results.tutorials(entry))),
        *(f"{each:,.2f}" for each in (found.p50, found.p90, found.p99, found.p999)),
        "" if statements is None else f"{statements:.2f}",
        f"{found.size:,.0f}",
        f"{found.busy:.2f}",
        " ".join(f"{number} {status}" for status, number in entry.errors.items()),
    ]


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"
