"""The event loop: uvloop where it installs, asyncio's own elsewhere; and what may hold it up."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

# Seconds between looks at how late the loop is.
LOOK = 0.1

# Bytes: as many as the system keeps for a reader, one for each event.
_TOLD = 65_536
# How gRPC calls what reads them.
_READER = "PollerCompletionQueue._handle_events"

# The loop as it comes, and as Byline has it.
plain: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
factory = plain
try:
    import uvloop
except ImportError:
    pass
else:

    class _Loop(uvloop.Loop):
        def add_reader(
            self,
            fd: Any,  # noqa: ANN401 - a socket
            callback: Callable[..., Any],
            *args: object,
        ) -> None:
            func = callback.func if isinstance(callback, partial) else None
            if getattr(func, "__qualname__", "") == _READER:
                callback = at_one_go(fd, callback)
            super().add_reader(fd, callback, *args)

    plain, factory = uvloop.new_event_loop, _Loop


def at_one_go(told: socket.socket, read: Callable[[], None]) -> Callable[[], None]:
    """Returns what reads all a socket is told, where `read` takes one byte and does all there is.

    gRPC's thread tells the loop of each event by a byte. Its reader takes one byte and all events,
    so that the loop would come round for the other bytes in vain: 6% of what GetUser costs. It is
    for one loop in a process: those of two would take each other's bytes.
    """

    def read_all() -> None:
        # One that comes meanwhile is for an event that may come too late for this round.
        with suppress(BlockingIOError):
            more = len(told.recv(_TOLD, socket.MSG_PEEK)) - 1
            if more > 0:
                told.recv(more)
        read()

    return read_all


def run(
    main: Coroutine[Any, Any, None], loop: Callable[[], asyncio.AbstractEventLoop] = factory
) -> None:
    """Runs a program's main coroutine to its end.

    Args:
        main: the coroutine.
        loop: makes the loop that it runs on.
    """
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main)


def stop_on_signals() -> asyncio.Event:
    """Returns what SIGTERM and SIGINT set while the running loop runs, and nothing after it.

    The handlers of asyncio's own loop end with it, and who is impatient would then end the process
    by force, while it ends what it has started.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def heed(*_: object) -> None:
        with suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(stop.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, heed)
    return stop


async def watch_lag(late: Callable[[float], None]) -> None:
    """Tells how late the running loop is, in seconds, again and again until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LOOK
        await asyncio.sleep(LOOK)
        late(max(0.0, loop.time() - due))
