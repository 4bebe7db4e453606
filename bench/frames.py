"""Writes a request of each RPC as gRPC frames it: the bodies that h2load sends."""

from __future__ import annotations

import struct
from pathlib import Path

from bench.scenarios import SCENARIOS, World

FOLDER = Path(__file__).parent / "h2load"
# The ids are those of any database that has this much.
WORLD = World(users=1_000, posts=5_000)


def framed(message: bytes) -> bytes:
    """Returns a message behind its flag, not compressed, and its length."""
    return struct.pack(">?I", False, len(message)) + message  # noqa: FBT003 - a flag of gRPC's


def main() -> None:
    """Writes the files."""
    # The first scenario of each RPC is the plainest.
    for scenario in {each.method: each for each in reversed(SCENARIOS)}.values():
        body = framed(scenario.requests(WORLD)[0])
        (FOLDER / f"{scenario.name}.grpc").write_bytes(body)


if __name__ == "__main__":
    main()
