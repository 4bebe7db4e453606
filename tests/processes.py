"""`byline serve` as an operator has it: a process of its own, its output, its signals, its end."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests import secrecy
from tests.clients import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

# How long anything may take on a busy machine before the test has failed.
PATIENCE = 120.0
POLL = 0.02
# The command, as a program of its own.
BYLINE = (sys.executable, "-m", "service.start")
# linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
# Nothing is slower than a test needs it to be. A flag that is given again counts.
QUICK = (
    *("--listen", "127.0.0.1:0", "--log-format", "json", "--drain-pause", "0"),
    *("--hash-time-cost", "1", "--hash-memory-kib", "8", "--hash-parallelism", "1"),
)


async def until(holds: Callable[[], bool | Awaitable[bool]]) -> None:
    """Waits for a condition to hold."""
    deadline = time.monotonic() + PATIENCE
    while True:
        held = holds()
        if held if isinstance(held, bool) else await held:
            return
        assert time.monotonic() < deadline, "it did not come to hold"
        await asyncio.sleep(POLL)


class Byline:
    """A `byline serve` that was started.

    Args:
        folder: where it is started, which is where it looks for `.env`, and where its output goes.
        flags: its flags.
    """

    def __init__(self, folder: Path, *flags: object) -> None:
        self._output = folder / f"out-{time.monotonic_ns()}"
        self._log = self._output.with_name(self._output.name + ".log")
        self._process = start(
            *(*BYLINE, "serve", *QUICK, *flags),
            folder=folder,
            output=self._output,
            log=self._log,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        """What it printed."""
        return self._output.read_text()

    @property
    def complaint(self) -> str:
        """What it printed on standard error, its log among it."""
        return self._log.read_text()

    @property
    def address(self) -> str:
        """Where it says that it listens."""
        return self.printed(r"listens on (\S+)")

    def printed(self, pattern: str) -> str:
        """The part of its output that a pattern's group matches."""
        found = re.search(pattern, self.output)
        assert found, f"no {pattern!r} in {self.output!r}"
        return found[1]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Its log lines about an event."""
        # The last line may be half written.
        lines = self.complaint.splitlines(keepends=True)
        parsed = [json.loads(line) for line in lines if line.startswith("{") and line[-1] == "\n"]
        return [line for line in parsed if line["event"] == event]

    async def started(self) -> None:
        """Waits until it says that it serves."""
        await until(lambda: "Ctrl-C" in self.output or self._process.poll() is not None)
        assert self._process.returncode is None, self.complaint

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the one process."""
        self._process.send_signal(number)

    def ctrl_c(self) -> None:
        """Does what a terminal does: SIGINT to the whole process group."""
        os.killpg(self.pid, signal.SIGINT)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    async def status(self) -> int:
        """Waits for its end, and returns its exit status."""
        await until(lambda: self.ended)
        return self._process.returncode

    async def stop(self) -> int:
        """Asks it to end, and returns its exit status."""
        self.signal(signal.SIGTERM)
        return await self.status()

    def kill(self) -> None:
        """Ends it by force, if it has not ended, and looks through all that it wrote."""
        self._process.kill()
        self._process.wait()
        secrecy.check(self.output + self.complaint)


@asynccontextmanager
async def serving(folder: Path, *flags: object) -> AsyncIterator[Byline]:
    """Runs `byline serve` while the block lasts, or until the test ends it."""
    byline = Byline(folder, *flags)
    try:
        await byline.started()
        yield byline
        if not byline.ended:
            await byline.stop()
    finally:
        byline.kill()


@asynccontextmanager
async def calling(byline: Byline) -> AsyncIterator[Client]:
    """A client of a `byline serve`."""
    async with Client(byline.address) as client:
        yield client


def start(*command: object, folder: Path, output: Path, log: Path) -> subprocess.Popen[bytes]:
    """Starts a command in a folder, as a terminal does: at the head of a process group."""
    with output.open("wb") as out, log.open("wb") as err:
        return subprocess.Popen(  # noqa: S603 - a command of the test's own
            [str(part) for part in command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )


class Running:
    """A command at work, which says all that it says in one stream.

    It is not asyncio's: the event loop's fork() runs gRPC's handlers in the child, where they crash
    now and then.

    Args:
        command: its parts.
        folder: where it is started; None for here.
    """

    def __init__(self, *command: str, folder: Path | None = None) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - a command of the test's own
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ended(self) -> tuple[int, str]:
        """Waits for its end, and returns its status and what it said."""
        said, _ = await asyncio.to_thread(self._process.communicate)
        return self._process.returncode, said.decode()

    def kill(self) -> None:
        """Ends it, without a chance to tidy up."""
        self._process.kill()


def working_in(folder: Path) -> set[int]:
    """The processes whose working directory is in a folder: a server's is its data."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            where = (entry / "cwd").readlink()
        except OSError:
            continue
        if entry.name.isdigit() and where.is_relative_to(folder):
            found.add(int(entry.name))
    return found


def is_running(pid: int) -> bool:
    """Tells whether a process is there and has not ended."""
    return _state_and_parent(pid)[0] not in {"", "Z"}


def is_zombie(pid: int) -> bool:
    """Tells whether a process has ended, and its parent has not looked how."""
    return _state_and_parent(pid)[0] == "Z"


@contextmanager
def adopting() -> Iterator[None]:
    """Makes this process the parent of its orphans, which are zombies until the block is over."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = _own_zombies()
    try:
        yield
    finally:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        for pid in _own_zombies() - before:
            os.waitpid(pid, 0)


def _own_zombies() -> set[int]:
    pids = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    return {pid for pid in pids if _state_and_parent(pid) == ("Z", os.getpid())}


def _state_and_parent(pid: int) -> tuple[str, int]:
    """Returns a process' state, empty of one that is not there, and the pid of its parent."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    return state, int(parent)
