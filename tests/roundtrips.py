"""Counts the round trips of a client of PostgreSQL, by standing between it and its server."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import make_url

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import AsyncIterator
    from pathlib import Path

# What the server answers before a client goes on: Sync and Query.
AWAITED = {b"S", b"Q"}
PORT = 6434


@dataclass
class Counted:
    """How many round trips there were, and by which URL they are counted."""

    url: str
    round_trips: int = 0


@asynccontextmanager
async def counted(url: str, folder: Path) -> AsyncIterator[Counted]:
    """Counts those who go by another URL than a server's own.

    Args:
        url: the server's, on a Unix socket.
        folder: for a socket.
    """
    where = make_url(url)
    server = f"{where.query['host']}/.s.PGSQL.{where.query['port']}"
    asked = where.update_query_dict({"host": str(folder), "port": str(PORT)})
    count = Counted(asked.render_as_string(hide_password=False))

    async def pass_on(client: StreamReader, answers: StreamWriter) -> None:
        back, there = await asyncio.open_unix_connection(server)
        answering = asyncio.create_task(_copy(back, answers))
        try:
            size = await client.readexactly(4)  # the first message has no type
            there.write(size + await client.readexactly(int.from_bytes(size) - 4))
            while True:
                kind, size = await client.readexactly(1), await client.readexactly(4)
                count.round_trips += kind in AWAITED
                there.write(kind + size + await client.readexactly(int.from_bytes(size) - 4))
        except asyncio.IncompleteReadError:
            there.close()
        await answering

    async with await asyncio.start_unix_server(pass_on, folder / f".s.PGSQL.{PORT}"):
        yield count


async def _copy(source: StreamReader, target: StreamWriter) -> None:
    while some := await source.read(65536):
        target.write(some)
    target.close()
