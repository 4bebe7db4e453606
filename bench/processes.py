"""The processes that are measured: their CPU time, and the servers among them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.measurement import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator

TICKS = os.sysconf("SC_CLK_TCK")


class Byline(NamedTuple):
    """A `byline serve` that takes calls."""

    address: str
    pid: int


def cpu_seconds(pid: int) -> float:
    """Returns the CPU time of a process and of its children, those among them that have ended."""
    # A child's time becomes its parent's when it ends: none is missed if the parent's is read last.
    children = [
        each.name
        for each in Path("/proc").iterdir()
        if each.name.isdigit() and _stat(each.name)[1:2] == [str(pid)]
    ]
    return sum(map(_cpu_seconds, [*children, str(pid)]))


def _cpu_seconds(pid: str) -> float:
    # utime, stime, cutime and cstime: proc_pid_stat(5).
    return sum(map(int, _stat(pid)[11:15])) / TICKS


def _stat(pid: str) -> list[str]:
    """Returns what the system tells of a process, from its state on; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


@contextmanager
def serving(folder: Path, database_url: str, *flags: str) -> Iterator[Byline]:
    """Runs `byline serve` while the block lasts, with the settings that operators get.

    Args:
        folder: where its log goes.
        database_url: what it serves from.
        flags: its flags.

    Raises:
        BenchError: when it does not come to serve.
    """
    log = folder / f"serve{''.join(flags)}.log"
    command = (sys.executable, "-P", "-m", "service.cli", "serve", "--listen", "127.0.0.1:0")
    with (
        log.open("wb") as stderr,
        subprocess.Popen(  # noqa: S603 - a program of ours, no shell
            [*command, "--drain-pause", "0", "--database-url", database_url, *flags],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout  # noqa: S101 - told so above
            found = re.search(r"listens on (\S+)", process.stdout.readline())
            if found is None:
                raise BenchError(f"byline serve did not start:\n{log.read_text()}")
            yield Byline(found[1], process.pid)
        finally:
            process.terminate()
