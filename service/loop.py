"""The event loop: uvloop where it installs, asyncio's own elsewhere."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

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
