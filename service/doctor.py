"""What keeps a server from serving well, and what to do about it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from service import access, schema, tls
from service.config import SettingsError, parse_address
from service.files import FileError
from service.ports import CannotListen, reserve
from storage.dialects.facts import facts
from storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import migrations
    from service.config import Settings
    from storage.database import Database
    from storage.dialects.facts import Facts

# Seconds between two clocks from which on logs and rows are hard to bring together.
FAR_APART = 1.0
# For less than this a certificate should not be left in use.
SOON = timedelta(days=7)


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


def examine_ports(settings: Settings) -> Iterator[Finding]:
    """Looks at whether the addresses are free that a server is to listen on."""
    yield _port("port", settings.listen, "--listen")
    if settings.metrics_listen is not None:
        yield _port("metrics", settings.metrics_listen, "--metrics-listen")


def _port(name: str, listen: str, flag: str) -> Finding:
    try:
        reserved, address = reserve(parse_address(listen))
    except CannotListen as taken:
        told = f"{taken}; stop who listens, or set {flag}"
        return Finding(name, is_well=False, told=told)
    reserved.close()
    return Finding(name, is_well=True, told=f"{address} is free")


def examine_schema(settings: Settings, status: migrations.Status) -> Finding:
    """Looks at whether a server would serve a schema that stands so, or bring it to where it can.

    Args:
        settings: of that server.
        status: of its database's schema.
    """
    if schema.is_to_migrate(settings, status):
        told = f"{status.current or 'empty'}: serving brings it up to date"
        return Finding("schema", is_well=True, told=told)
    return Finding("schema", status.state in schema.SERVED, schema.described(status))


def examine_callers(settings: Settings) -> Iterator[Finding]:
    """Looks at who can call, and at the files that say so."""
    try:
        told = access.check(settings, parse_address(settings.listen))
    except (SettingsError, FileError) as error:
        told = f"{error}; `byline serve` does not start with this"
        yield Finding("callers", is_well=False, told=told)
    else:
        yield Finding("callers", is_well=True, told=told)
    for name, path in (("tls", settings.tls_certificate), ("client_ca", settings.tls_client_ca)):
        if path is not None:
            yield _certificate(name, path, datetime.now(UTC))


def _certificate(name: str, path: Path, now: datetime) -> Finding:
    try:
        begin, end = tls.validity(path)
    except FileError as error:
        return Finding(name, is_well=False, told=f"{error}; put certificates in PEM there")
    days = abs(end - now).days
    if now < begin:
        told = f"{path} is not valid before {begin:%Y-%m-%d %H:%M} UTC; look at the clock, or wait"
    elif end < now:
        told = f"{path} expired {days} days ago, on {end:%Y-%m-%d}; renew it"
    elif end - now < SOON:
        told = f"{path} expires in {days} days, on {end:%Y-%m-%d}; renew it"
    else:
        return Finding(name, is_well=True, told=f"{path} is valid for {days} more days")
    # Servers take the new one at the next handshake.
    return Finding(name, is_well=False, told=f"{told}, no server has to be started again")


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

    told = "all are there"
    if found.missing:
        names = ", ".join(found.missing)
        told = f"{names} cannot be made; install it beside the server (Debian: postgresql-contrib)"
    elif found.dropped:
        names = ", ".join(found.dropped)
        told = (
            f"{names} is not in this database any more; run CREATE EXTENSION {names}, and those "
            "CREATE INDEX that `byline migrate sql` prints for it"
        )
    yield Finding("extensions", not (found.missing or found.dropped), told)

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
