"""Says whether a server is to be sent calls: what a container asks of itself every few seconds.

It is a program of its own: `byline` takes a second of a processor before it knows what to do.
"""

from __future__ import annotations

import sys
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, InvalidURL
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

USAGE = "usage: byline-ready HOST:PORT, where --metrics-listen is"
USAGE_ERROR = 2
# Seconds in which the server has to answer.
PATIENCE = 3.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 when the server is ready, 1 when not, 2 for a misspelt command."""
    try:
        (address,) = sys.argv[1:] if arguments is None else arguments
        connection = HTTPConnection(address, timeout=PATIENCE)
    except (ValueError, InvalidURL):
        print(USAGE, file=sys.stderr)
        return USAGE_ERROR
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        print(answer.read().decode().strip())
    except (OSError, HTTPException) as error:
        print(f"byline-ready: {address} does not answer: {error}", file=sys.stderr)
        return 1
    return 0 if answer.status == HTTPStatus.OK else 1


if __name__ == "__main__":
    sys.exit(main())
