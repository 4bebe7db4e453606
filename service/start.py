"""How `byline` begins: what it takes a second to load, Ctrl-C ends without a word."""

from __future__ import annotations

import os
import signal

INTERRUPTED = 130


def main() -> int:
    """Loads the command, runs it, and returns its exit status: see `service.cli.main`."""
    # Python's own way is an exception, in whatever module is being loaded.
    heeds = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeds:
        signal.signal(signal.SIGINT, _leave)
    from service import cli  # noqa: PLC0415 - what takes the second

    if heeds:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return cli.main()


def _leave(*_: object) -> None:
    # The system's own way would not end the first process of a container.
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    raise SystemExit(main())
