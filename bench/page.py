"""The results as one page with plots, which needs nothing but itself."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from bench import report
from bench.measurement import MIB
from bench.results import FLOOR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bench.results import Entry, Results

PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>byline bench, {started}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1f24; background: #fff }}
h1, h2, h3 {{ font-weight: 600; line-height: 1.2 }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ padding: .15rem .6rem; text-align: right; white-space: nowrap }}
th {{ font-weight: 500; color: #57606a }}
th:nth-child(-n+2), td:nth-child(-n+2) {{ text-align: left }}
tr.first td {{ border-top: 1px solid #d0d7de }}
.scroll {{ overflow-x: auto }}
figure {{ display: inline-block; margin: 0 1.5rem 1.5rem 0; vertical-align: top }}
figcaption {{ font-weight: 500 }}
svg {{ font: 11px system-ui, sans-serif; fill: #57606a; overflow: visible }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem }}
dt {{ color: #57606a }}
dd {{ margin: 0 }}
</style>
<h1>byline bench</h1>
<p>{started}</p>
<h2>CPU for a call</h2>
<p>Microseconds of all processes, from their own accounting, in the median of the rounds. What the
floor's server takes is what grpc.aio costs by itself.</p>
{legend}
{cpu}
<h2>Latency against offered load</h2>
<p>Calls begin when they are due, whether or not others have been answered, and the time of each is
counted from when it was due. The line is the half of the calls, the dashes are all but a
hundredth; milliseconds, by powers of ten.</p>
{curves}
<h2>Memory</h2>
<p>What each server has resident, in MiB, after each load.</p>
{memory}
<h2>Figures</h2>
<p>Medians of the rounds. Floors: the server's CPU by that of the floor in the same round. Less: how
often the CPU, of server and database, the tutorial's way takes. Load: CPU of the processes that
make it, in cores.</p>
<div class="scroll">{table}</div>
<h2>Machine and settings</h2>
<dl>{machine}</dl>
</html>
"""
COLOURS = {
    "floor": "#8c959f",
    "tutorial": "#bf8700",
    "byline": "#0969da",
    "byline-sqlite": "#8250df",
    "byline-mariadb": "#1a7f37",
}
# The layers of a call's CPU: grpc.aio, the rest of the server, the database.
LAYERS = (("grpc.aio", "#8c959f"), ("the rest of the server", "#0969da"), ("database", "#1a7f37"))
WIDTH, HEIGHT, BAR, NAME = 420, 200, 20, 110


class Line(NamedTuple):
    """A line of a plot."""

    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False


def html(results: Results) -> str:
    """Returns the page."""
    return PAGE.format(
        started=escape(results.started),
        legend=_legend(LAYERS),
        cpu="".join(_cpu(results, scenario) for scenario in _scenarios(results.entries)),
        curves=_curves(results) or "<p>None were measured: see <code>--curve</code>.</p>",
        memory=_memory(results),
        table=_table(results),
        machine="".join(
            f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
            for name, value in results.told.items()
        ),
    )


def _scenarios(entries: Iterable[Entry]) -> list[str]:
    return list(dict.fromkeys(entry.scenario for entry in entries))


def _legend(parts: Iterable[tuple[str, str]]) -> str:
    shown = (
        f'<span style="color:{colour}">&#9632;</span> {escape(name)}' for name, colour in parts
    )
    return f"<p>{' &nbsp; '.join(shown)}</p>"


def _cpu(results: Results, scenario: str) -> str:
    """A bar for each server, by layers."""
    entries = [each for each in results.entries if each.scenario == scenario]
    floor = results.entry(scenario, FLOOR)
    base = floor.median.server_us if floor else 0.0
    most = max(each.median.total_us for each in entries)
    scale = (WIDTH - NAME - 50) / most
    rows = []
    for number, entry in enumerate(entries):
        found, left, top = entry.median, float(NAME), number * (BAR + 4)
        rows.append(f'<text x="0" y="{top + 14}">{escape(entry.server)}</text>')
        within = min(base, found.server_us)
        for (_, colour), part in zip(
            LAYERS, (within, found.server_us - within, found.database_us), strict=True
        ):
            rows.append(
                f'<rect x="{left:.1f}" y="{top}" width="{part * scale:.1f}" height="{BAR}" '
                f'fill="{colour}"/>'
            )
            left += part * scale
        rows.append(f'<text x="{left + 4:.1f}" y="{top + 14}">{found.total_us:,.0f}</text>')
    return _figure(scenario, len(entries) * (BAR + 4), rows)


def _curves(results: Results) -> str:
    made = []
    for scenario in dict.fromkeys(each.scenario for each in results.curves):
        curves = [each for each in results.curves if each.scenario == scenario]
        lines = []
        for each in curves:
            colour = COLOURS[each.server]
            halves = [(point.offered, point.figures.p50) for point in each.points]
            nearly_all = [(point.offered, point.figures.p99) for point in each.points]
            lines += [Line(halves, colour), Line(nearly_all, colour, dashed=True)]
        title = f"{scenario}: ms against calls offered a second"
        made.append(_legend((each.server, COLOURS[each.server]) for each in curves))
        made.append(_plot(title, lines, logarithmic=True))
    return "".join(made)


def _memory(results: Results) -> str:
    made = [_legend((name, COLOURS[name]) for name in results.memory)]
    for name, samples in results.memory.items():
        line = Line([(at, size / MIB) for at, size in samples], COLOURS[name])
        made.append(_plot(f"{name}: MiB against seconds", [line]))
    return "".join(made)


def _plot(title: str, lines: Sequence[Line], *, logarithmic: bool = False) -> str:
    """Lines over axes that begin at zero, or at a power of ten."""
    points = [point for line in lines for point in line.points]
    right = max(x for x, _ in points) or 1.0
    height: Callable[[float], float]
    if logarithmic:
        low = math.floor(math.log10(min(y for _, y in points)))
        high = max(low + 1, math.ceil(math.log10(max(y for _, y in points))))
        ticks = [10.0**power for power in range(low, high + 1)]
        height = lambda y: (math.log10(y) - low) / (high - low)  # noqa: E731 - the other is beside it
    else:
        step = _step(max(y for _, y in points))
        ticks = [step * number for number in range(6)]
        height = lambda y: y / ticks[-1]  # noqa: E731 - the other is beside it
    rows = []
    for tick in ticks:
        y = HEIGHT * (1 - height(tick))
        rows.append(
            f'<line x1="40" y1="{y:.1f}" x2="{WIDTH}" y2="{y:.1f}" stroke="#d0d7de"/>'
            f'<text x="34" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    across = WIDTH - 40
    step = _step(right)
    for number in range(6):
        x = 40 + across * step * number / (step * 5)
        rows.append(
            f'<text x="{x:.1f}" y="{HEIGHT + 16}" text-anchor="middle">{step * number:,g}</text>'
        )
    for line in lines:
        path = " ".join(
            f"{40 + across * x / (step * 5):.1f},{HEIGHT * (1 - height(y)):.1f}"
            for x, y in line.points
        )
        dashes = ' stroke-dasharray="4 3"' if line.dashed else ""
        rows.append(
            f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="1.5"'
            f"{dashes}/>"
        )
    return _figure(title, HEIGHT + 20, rows)


def _step(most: float) -> float:
    """Returns the roundest number of which five reach this far."""
    unit = 10.0 ** math.floor(math.log10(most / 5))
    return next(unit * times for times in (1, 2, 2.5, 5, 10) if unit * times * 5 >= most)


def _figure(title: str, height: float, rows: Iterable[str]) -> str:
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg width="{WIDTH}" height="{height + 4}" role="img" aria-label="{escape(title)}">'
        f"{''.join(rows)}</svg></figure>"
    )


def _table(results: Results) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in ("", "", *report.COLUMNS, *report.MORE))
    rows, shown = [], ""
    for entry in results.entries:
        first = entry.scenario != shown
        cells = [entry.scenario if first else "", entry.server, *report.row(results, entry)]
        kind = ' class="first"' if first else ""
        rows.append(f"<tr{kind}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
        shown = entry.scenario
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"
