"""How the process's memory is laid out."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

# Prints what glibc tells of its arenas after threads have allocated at the same time.
THREADS = """
import ctypes, sys, threading
from service.memory import share_arena

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.fdopen.restype = ctypes.c_void_p
if "shared" in sys.argv:
    share_arena()
barrier = threading.Barrier(4)

def allocate():
    barrier.wait()
    libc.malloc(4_096)
    barrier.wait()

threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


def test_threads_allocate_from_one_arena_once_they_share_it() -> None:
    assert _arenas() > 1
    assert _arenas("shared") == 1


def _arenas(*words: str) -> int:
    if sys.platform != "linux":
        pytest.skip("malloc is not glibc's")
    done = subprocess.run(  # noqa: S603 - a program of ours, no shell
        [sys.executable, "-c", THREADS, *words], capture_output=True, text=True, check=True
    )
    return len(re.findall(r"<heap nr=", done.stdout))
