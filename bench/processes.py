"""The processes that are measured: their CPU time and memory, and the servers among them."""

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
    from collections.abc import Iterator, Sequence

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
BYLINE = ("service.start", "serve", "--listen", "127.0.0.1:0", "--drain-pause", "0")


class Serving(NamedTuple):
    """A server that takes calls."""

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


def resident(pid: int) -> int:
    """Returns the bytes of memory that a process has resident."""
    # The second number: proc_pid_statm(5).
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def _cpu_seconds(pid: str) -> float:
    # utime, stime, cutime and cstime: proc_pid_stat(5).
    return sum(map(int, _stat(pid)[11:15])) / TICKS


def _stat(pid: str) -> list[str]:
    """Returns what the system tells of a process, from its state on; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def byline(database_url: str, *flags: str) -> tuple[str, ...]:
    """Returns the words that run `byline serve` with the settings that operators get."""
    return (*BYLINE, "--database-url", database_url, *flags)


@contextmanager
def serving(log: Path, words: Sequence[str]) -> Iterator[Serving]:
    """Runs a server while the block lasts.

    Args:
        log: where its log goes.
        words: its module and what that is told; it says where it listens.

    Raises:
        BenchError: when it does not come to serve.
    """
    with (
        log.open("wb") as stderr,
        subprocess.Popen(  # noqa: S603 - a program of ours, no shell
            [sys.executable, "-P", "-m", *words],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout  # noqa: S101 - told so above
            found = re.search(r"listens on (\S+)", process.stdout.readline())
            if found is None:
                raise BenchError(f"{words[0]} did not start:\n{log.read_text()}")
            yield Serving(found[1], process.pid)
        finally:
            process.terminate()
