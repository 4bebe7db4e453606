"""How `byline` begins: what it takes a second to load, Ctrl-C ends without a word."""

from __future__ import annotations

import signal


def main() -> int:
    """Loads the command, runs it, and returns its exit status: see `service.cli.main`."""
    # Python's own way is an exception, in whatever module is being loaded.
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from service import cli  # noqa: PLC0415 - what takes the second

    signal.signal(signal.SIGINT, before)
    return cli.main()


if __name__ == "__main__":
    raise SystemExit(main())
