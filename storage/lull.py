"""When to begin what is done for many at once: when nobody else is on the way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sized

# Turns of the event loop in which nobody comes, if nobody is on the way: gRPC takes a few to hand
# a call over. No time passes in them but what other calls need.
TURNS = 32


async def until_none_comes(waiting: Sized, most: int) -> None:
    """Lets those join who are on the way: the fewer statements, the sooner all are served.

    Args:
        waiting: who waits.
        most: how many are served at once; no more are waited for.
    """
    quiet = 0
    while quiet < TURNS and (before := len(waiting)) < most:
        await asyncio.sleep(0)
        quiet = quiet + 1 if len(waiting) == before else 0
