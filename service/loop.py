"""The event loop: uvloop where it installs, asyncio's own elsewhere; and what may hold it up."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

# Seconds between looks at how late the loop is.
LOOK = 0.1
# Objects made and not dropped before the youngest are looked at, and how many such looks lie
# between those at the older ones. Calls drop nearly all of theirs by themselves.
GARBAGE = (20_000, 20, 20)

factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
try:
    import uvloop
except ImportError:
    pass
else:
    factory = uvloop.new_event_loop


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs a program's main coroutine to its end."""
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


def spare() -> None:
    """Has the garbage collector pass over all that is there, which lasts as long as the process.

    Otherwise a look at it holds the loop for 60 ms, again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE)


async def watch_lag(late: Callable[[float], None]) -> None:
    """Tells how late the running loop is, in seconds, again and again until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LOOK
        await asyncio.sleep(LOOK)
        late(max(0.0, loop.time() - due))
