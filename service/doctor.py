"""What keeps a server from serving well, and what to do about it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from storage.dialects.facts import facts
from storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.config import Settings
    from storage.database import Database
    from storage.dialects.facts import Facts

# Seconds between two clocks from which on logs and rows are hard to bring together.
FAR_APART = 1.0


class Finding(NamedTuple):
    """What a check found.

    Args:
        name: of what was looked at.
        is_well: whether it will do.
        told: what is the matter, and what to do about it if it will not do.
    """

    name: str
    is_well: bool
    told: str

    def __str__(self) -> str:
        """Returns it as a line for people."""
        return f"{'ok' if self.is_well else 'FAIL':4}  {self.name:<10}  {self.told}"


async def examine(database: Database, settings: Settings) -> list[Finding]:
    """Looks at a database: whether it is there, what it is, and whether it has room.

    Args:
        database: that a server is to serve from.
        settings: of that server.
    """
    try:
        async with database.read() as read:
            asked = time.time()
            found = await facts(read)
            answered = time.time()
    except StorageError as error:
        told = (
            f"does not answer: {str(error) or type(error).__name__}; check BYLINE_DATABASE_URL, "
            "that the server runs, and that it lets this user in"
        )
        return [Finding("database", is_well=False, told=told)]
    return [*_of(found, settings), _clock(found.clock, asked, answered)]


def _of(found: Facts, settings: Settings) -> Iterator[Finding]:
    told = f"{found.name} {found.version}"
    if not found.is_known:
        told += " is older than any that Byline is tested on; docs/databases.md says which are"
    yield Finding("database", found.is_known, told)

    names = ", ".join(found.missing)
    yield Finding(
        "extensions",
        not found.missing,
        f"{names} cannot be made; install it beside the server (on Debian: postgresql-contrib)"
        if found.missing
        else "all are there",
    )

    needed = settings.workers * settings.pool_limit
    if found.connections is None:
        yield Finding("pool", is_well=True, told=f"up to {needed} connections, without a bound")
        return
    has_room = needed < found.connections
    told = f"up to {needed} connections of the {found.connections} that the database allows"
    if not has_room:
        told += "; lower --workers or --pool-size, or raise max_connections"
    yield Finding("pool", has_room, told)


def _clock(theirs: float, asked: float, answered: float) -> Finding:
    """Compares the database's clock with ours, allowing for the time that its answer took."""
    apart = max(asked - theirs, theirs - answered, 0.0)
    told = f"{apart:.3f} s from the database's"
    if apart > FAR_APART:
        told += "; set both by the same time server (NTP)"
    return Finding("clock", apart <= FAR_APART, told)
