"""A migrator that kills itself before one of its statements, or before it commits."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys

from sqlalchemy import event
from sqlalchemy.engine import Engine

import migrations

# A process forked from one that has imported all of it starts in no time.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__, "tests.migrations.preloaded"])


async def killed(moment: int, *arguments: str) -> bool:
    """Runs a migrator to its end, and tells whether it was killed.

    Args:
        moment: before which of its statements and commits it is killed, counted from 1.
        arguments: as `migrate` takes them.
    """
    process = _processes.Process(target=migrate, args=(moment, *arguments))
    process.start()
    await asyncio.to_thread(process.join)
    assert process.exitcode in {0, -signal.SIGKILL}
    return process.exitcode != 0


def migrate(moment: int, action: str, url: str, revision: str) -> None:
    """Runs `up` or `down` to a revision, unless the process is killed before."""
    kill_before(moment)
    {"up": migrations.up, "down": migrations.down}[action](url, revision)


def kill_before(moment: int) -> None:
    """Has the process killed before it sends so many statements, counted from 1."""
    sent = 0

    @event.listens_for(Engine, "before_cursor_execute")
    @event.listens_for(Engine, "commit")
    def count(*_: object) -> None:
        nonlocal sent
        sent += 1
        if sent == moment:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    action, moment, _, url = sys.argv[-4:]
    migrate(int(moment), action, url, "head")
