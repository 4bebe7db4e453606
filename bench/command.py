"""`byline bench`: measures Byline beside what it is compared to."""

from __future__ import annotations

import argparse
import signal
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pydantic import ValidationError
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from bench import compare, page, report
from bench.databases import Sizes
from bench.measurement import BenchError
from bench.results import BYLINE, FLOOR, RESULTS, TUTORIAL
from bench.run import SERVERS, Plan, run
from bench.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.results import Results

# Wider than any terminal: a table that is cut is worth little.
WIDTH = 160
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints what came of it, and returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    try:
        old = _read(options.compare) if options.compare else None
        results = _read(options.measured) if options.measured else measured(_plan(parser, options))
    except BenchError as error:
        print(f"byline bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    if options.json:
        options.json.write_bytes(RESULTS.dump_json(results, indent=2) + b"\n")
    if options.html:
        options.html.write_text(page.html(results))
    console.print(report.table(results))
    for name, value in results.told.items():
        console.print(f"{name}: {value}", highlight=False)
    if old is None:
        return 0
    changes = compare.changes(old, results)
    console.print(compare.table(changes, options.threshold))
    return int(any(each.is_slower(options.threshold) for each in changes))


def _read(file: Path) -> Results:
    """Returns the results that an earlier run wrote.

    Raises:
        BenchError: when there are none.
    """
    try:
        return RESULTS.validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise BenchError(f"{file} has no results: {error}") from None


def measured(plan: Plan) -> Results:
    """Measures, and shows how far it is."""
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=plan.steps)
        return run(plan, lambda what: bar.update(task, description=what, advance=1))


def _plan(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Plan:
    scenarios = [
        each
        for each in SCENARIOS
        if any(fnmatch(each.name, pattern) for pattern in options.scenario or "*")
    ]
    servers = [name for name in SERVERS if name in (options.server or SERVERS)]
    if not scenarios:
        parser.error(f"no scenario is called {' or '.join(options.scenario)}")
    return Plan(
        scenarios=scenarios,
        servers=servers,
        curves=[each for each in scenarios if options.curve and fnmatch(each.name, options.curve)],
        rounds=options.rounds,
        seconds=options.seconds,
        processes=options.processes,
        sizes=Sizes(options.users, options.posts),
        cache=options.cache,
    )


def _parser() -> argparse.ArgumentParser:
    names = ", ".join(each.name for each in SCENARIOS)
    parser = argparse.ArgumentParser(prog="byline bench", description=main.__doc__)
    for flag, kind, default, text in (
        ("--rounds", int, 5, "that are measured, after one that warms up"),
        ("--seconds", float, 3.0, "for each scenario on each server in a round"),
        ("--users", int, 100_000, "in the databases"),
        ("--posts", int, 500_000, "in the databases"),
        ("--processes", int, 1, "that make the load"),
        ("--cache", Path, Path(".bench"), "where databases are kept between runs"),
    ):
        parser.add_argument(flag, type=kind, default=default, help=f"{text} [{default}]")
    parser.add_argument(
        "--scenario",
        action="append",
        metavar="PATTERN",
        help=f"only those of this name, * for any text; may be given again; there are {names}",
    )
    parser.add_argument(
        "--server",
        action="append",
        choices=tuple(SERVERS),
        help=f"only this; may be given again, e.g. for {FLOOR}, {TUTORIAL} and {BYLINE}",
    )
    parser.add_argument(
        "--curve", metavar="PATTERN", help="scenarios to measure against offered load too [none]"
    )
    for flag, text in (
        ("--json", "where all figures go"),
        ("--html", "where a page with plots goes"),
        ("--compare", "figures of an earlier run: shows what got slower, and exits 1 if it did"),
        ("--measured", "figures of an earlier run that stand for this one: nothing is measured"),
    ):
        parser.add_argument(flag, type=Path, metavar="FILE", help=text)
    parser.add_argument(
        "--threshold", type=float, default=0.1, help="the part by which it may be slower [0.1]"
    )
    return parser


def _interrupt(number: int, frame: object) -> NoReturn:
    """Stops on SIGTERM as on Ctrl-C: what was started is stopped on the way out."""
    del number, frame
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
