"""What the process keeps in memory: when objects are looked after, and where malloc has room."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

# Objects made and not dropped before the youngest are looked at, and how many such looks lie
# between those at the older ones. Calls drop nearly all of theirs by themselves.
GARBAGE = (5_000, 20, 20)

# What glibc's malloc.h calls it.
_M_ARENA_MAX = -8


def share_arena() -> None:
    """Has all threads allocate from one arena, before there are others than the first.

    glibc gives each thread an arena of its own, up to eight for each core. What one of gRPC's
    threads allocates and another frees leaves holes that only the former fills again, and the
    process grows with the calls. Where malloc is not glibc's, nothing is done.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def spare() -> None:
    """Has the garbage collector pass over all that is there, which lasts as long as the process.

    Otherwise a look at it holds the loop for 60 ms, again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE)
