"""Several server processes on one port: starts them, restarts one that dies, drains them all.

Each worker is this module run as a program. It reads its settings from standard input and drains
when that closes, so no worker outlives its supervisor, however that ends.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import structlog

from service import http, logs
from service.config import Address, Settings
from service.joining import Workers
from service.loop import run, stop_on_signals
from service.server import serve

if TYPE_CHECKING:
    from collections.abc import Callable

# A worker that dies sooner than this waits before it is started again, twice as long each time.
STEADY_AFTER = 10.0
FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
READY = b"ready\n"

log = structlog.get_logger("byline.supervisor")


async def supervise(
    settings: Settings, database_url: str, address: Address, started: Callable[[], None]
) -> None:
    """Runs `settings.workers` workers until SIGTERM or SIGINT, then drains them.

    Args:
        settings: how each worker behaves.
        database_url: the database they serve from.
        address: where they listen, all of them.
        started: called once every worker takes calls.
    """
    stop = stop_on_signals()
    with TemporaryDirectory(prefix="byline-") as folder:
        sockets = [Path(folder, str(number)) for number in range(settings.workers)]
        order = json.dumps(
            {
                "settings": settings.model_dump(mode="json"),
                "database_url": database_url,
                "address": address,
                "pages": [str(each) for each in sockets if settings.metrics_listen],
            }
        )
        workers = [_Worker(number, order.encode(), stop) for number in range(settings.workers)]
        seen = Workers(sockets)
        all_pages = http.pages(seen.metrics, seen.is_ready)
        async with http.showing(all_pages, settings.metrics_address), asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker.keep_running())
            await asyncio.gather(*(worker.ready.wait() for worker in workers))
            if not stop.is_set():
                started()
    log.info("stopped")


class _Worker:
    """A worker and those that follow it when it dies."""

    def __init__(self, number: int, order: bytes, stop: asyncio.Event) -> None:
        self.ready = asyncio.Event()
        self._number = number
        self._order = order
        self._stop = stop

    async def keep_running(self) -> None:
        """Runs the worker, again whenever it dies, until told to stop."""
        stopping = asyncio.create_task(self._stop.wait())
        delay = FIRST_DELAY
        while not self._stop.is_set():
            since = time.monotonic()
            status = await self._run_once(stopping)
            if self._stop.is_set():
                break
            delay = FIRST_DELAY if time.monotonic() - since > STEADY_AFTER else delay
            log.error("worker died", worker=self._number, status=status, restart_in=delay)
            await asyncio.wait([stopping], timeout=delay)
            delay = min(delay * 2, LONGEST_DELAY)
        self.ready.set()
        await stopping

    async def _run_once(self, stopping: asyncio.Task[bool]) -> int:
        process = await asyncio.create_subprocess_exec(
            # Without -P, a folder called service would be taken for ours where Byline is started.
            *(sys.executable, "-P", "-m", "service.supervisor", str(self._number)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # A Ctrl-C is the supervisor's to hear; the workers hear of it in their turn.
            start_new_session=True,
        )
        assert process.stdin  # noqa: S101 - told so above
        process.stdin.write(self._order + b"\n")
        announcing = asyncio.create_task(self._announce(process))
        exited = asyncio.create_task(process.wait())
        await asyncio.wait((exited, stopping), return_when=asyncio.FIRST_COMPLETED)
        with suppress(ProcessLookupError):
            process.terminate()
        await announcing
        return await exited

    async def _announce(self, process: asyncio.subprocess.Process) -> None:
        """Says that the worker takes calls, once it does."""
        assert process.stdout  # noqa: S101 - told so where it is made
        if await process.stdout.readline() == READY:
            self.ready.set()
            log.info("worker started", worker=self._number, pid=process.pid)


def work() -> None:
    """Runs one worker, as standard input tells."""
    line = sys.stdin.readline()
    if not line:
        return  # the supervisor has ended meanwhile
    order = json.loads(line)
    settings = Settings.model_validate(order["settings"])
    number = int(sys.argv[1])
    logs.configure(settings, worker=number)
    seen_at = Path(order["pages"][number]) if order["pages"] else None
    run(_work(settings, order["database_url"], Address(*order["address"]), seen_at))


async def _work(
    settings: Settings, database_url: str, address: Address, seen_at: Path | None
) -> None:
    loop = asyncio.get_running_loop()

    def abandoned() -> None:
        loop.remove_reader(sys.stdin)
        signal.raise_signal(signal.SIGTERM)

    loop.add_reader(sys.stdin, abandoned)

    def started(_: int) -> None:
        sys.stdout.buffer.write(READY)
        sys.stdout.flush()

    await serve(settings, database_url, address, seen_at, started)


if __name__ == "__main__":
    work()
