"""Measures whether a server's memory grows over a million calls, many of which callers give up.

Most of them read a user; then some change one, move credits, and read pages; and in a storm callers
leave before they are answered.
"""

from __future__ import annotations

import argparse
import sys
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from bench import databases
from bench.load import DEADLINE, Order, loading, save
from bench.measurement import MIB, MILLI, BenchError
from bench.processes import byline, resident, serving
from bench.scenarios import IN_FLIGHT, SCENARIOS, World

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES = databases.Sizes(users=1_000, posts=5_000)
# Scenarios by turns, and whether callers leave after what half of the calls took the time before.
CALM, STORM = False, True
TURNS = (
    ("get-user", CALM),
    ("update-user", CALM),
    ("get-user", CALM),
    ("transfer", CALM),
    ("get-user", STORM),
    ("get-user", CALM),
    ("list-users", CALM),
    ("get-user", CALM),
    ("update-user", STORM),
    ("get-user", CALM),
)
# Of all calls, how many come before the first look at the memory: caches fill with them.
WARMING = 0.1


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints the memory again and again, and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=main.__doc__)
    parser.add_argument("--calls", type=int, default=1_000_000, help="in all [1000000]")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each turn [10]")
    parser.add_argument("--cache", type=Path, default=Path(".bench"), help="of databases [.bench]")
    options = parser.parse_args(arguments)
    try:
        with TemporaryDirectory() as name:
            _measure(Path(name), options.cache, options.calls, options.seconds)
    except BenchError as error:
        print(f"bench.memory: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(folder: Path, cache: Path, most: int, seconds: float) -> None:
    """Makes calls, and prints what the server has resident, and by how much it grew at the end."""
    scenarios = {each.name: each for each in SCENARIOS}
    world = World(*SIZES)
    for name in {name for name, _ in TURNS}:
        save(scenarios[name].requests(world), folder / name)
    with (
        databases.seeded("postgresql", cache, folder, SIZES) as database,
        serving(folder / "log", byline(database.url)) as server,
        loading(2) as load,
    ):
        made = failed = first = 0
        medians: dict[str, float] = {}
        print("| calls | of which failed | resident |\n| --- | --- | --- |")
        for name, is_storm in cycle(TURNS):
            method, requests = scenarios[name].method, folder / name
            patience = medians[name] if is_storm else DEADLINE
            order = Order(server.address, method, requests, IN_FLIGHT, seconds, timeout=patience)
            seen = load.measure(order, server.pid, None)
            if not is_storm:
                medians[name] = seen.quantile(0.5) / MILLI
            left = sum(seen.errors.values())
            failed += left
            made += seen.calls + left
            memory = resident(server.pid)
            if not first and made > most * WARMING:
                first = memory
            print(f"| {made:,} | {failed:,} | {memory / MIB:.1f} MiB |", flush=True)
            if made >= most:
                print(f"grew by {memory / first - 1:.2%} since the first tenth of the calls")
                return


if __name__ == "__main__":
    sys.exit(main())
