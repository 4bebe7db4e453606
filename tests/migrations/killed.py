"""`byline migrate` that kills itself: its last argument but two says before which statement."""

from __future__ import annotations

import os
import signal
import sys

from sqlalchemy import event
from sqlalchemy.engine import Engine

from service.cli import main


def kill_before(moment: int) -> None:
    """Has the process killed before it sends so many statements, counted from 1."""
    sent = 0

    @event.listens_for(Engine, "before_cursor_execute")
    def count(*_: object) -> None:
        nonlocal sent
        sent += 1
        if sent == moment:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    *arguments, moment, flag, url = sys.argv[1:]
    kill_before(int(moment))
    sys.exit(main([*arguments, flag, url]))
