"""Connections, as gRPC keeps them: spoken to in HTTP/2's own frames (RFC 9113, section 6)."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple, Self

from service.config import Address, Settings
from service.server import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ENGINES = ("postgresql",)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
ACKNOWLEDGED = 1
MAX_CONCURRENT_STREAMS = 3
NO_ERROR, ENHANCE_YOUR_CALM = 0, 11
HEADER = 9


class Frame(NamedTuple):
    """A frame that a server sent."""

    kind: int
    flags: int
    payload: bytes

    @property
    def settings(self) -> dict[int, int]:
        """What a SETTINGS frame says."""
        pairs = [self.payload[at : at + 6] for at in range(0, len(self.payload), 6)]
        return {int.from_bytes(each[:2]): int.from_bytes(each[2:]) for each in pairs}

    @property
    def error(self) -> int:
        """Why a GOAWAY frame ends the connection."""
        return int.from_bytes(self.payload[4:8])


class Connection:
    """A client that sends what it is told to, and acknowledges nothing."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, port: int) -> Self:
        """Connects as every client of HTTP/2 does."""
        made = cls(*await asyncio.open_connection("127.0.0.1", port))
        made._writer.write(PREFACE)
        made.send(SETTINGS, b"")
        return made

    def send(self, kind: int, *payloads: bytes) -> None:
        """Sends frames that are about the whole connection, all at once.

        What is sent once the server has closed hides what it said before.
        """
        frames = (
            len(payload).to_bytes(3) + bytes([kind, 0]) + bytes(4) + payload for payload in payloads
        )
        self._writer.write(b"".join(frames))

    async def next(self, kind: int) -> Frame:
        """Passes over all frames of other kinds, and over acknowledgements."""
        while True:
            header = await self._reader.readexactly(HEADER)
            payload = await self._reader.readexactly(int.from_bytes(header[:3]))
            frame = Frame(header[3], header[4], payload)
            if frame.kind == kind and not frame.flags & ACKNOWLEDGED:
                return frame

    async def end(self) -> None:
        """Waits for the server to close it."""
        await self._reader.read()

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def connected(settings: Settings, url: str, **changed: object) -> AsyncIterator[Connection]:
    """A connection to a server with these settings."""
    server = Server(settings.model_copy(update=changed), url)
    async with server.serving(Address("127.0.0.1", 0)) as port:
        connection = await Connection.to(port)
        try:
            yield connection
        finally:
            connection.close()


async def test_a_client_is_told_how_many_calls_a_connection_may_have_open(
    settings: Settings, database_url: str
) -> None:
    async with connected(settings, database_url, max_streams=7) as connection:
        told = (await connection.next(SETTINGS)).settings
    assert told[MAX_CONCURRENT_STREAMS] == 7


async def test_a_connection_of_an_age_is_ended_without_an_error(
    settings: Settings, database_url: str
) -> None:
    async with connected(
        settings, database_url, max_connection_age=0.1, max_connection_age_grace=0.1
    ) as connection:
        assert (await connection.next(GOAWAY)).error == NO_ERROR
        await connection.end()


async def test_a_client_that_does_not_answer_a_ping_is_given_up(
    settings: Settings, database_url: str
) -> None:
    async with connected(
        settings, database_url, keepalive_interval=0.1, keepalive_timeout=0.1
    ) as connection:
        await connection.next(PING)
        await connection.end()


async def test_a_client_that_pings_without_end_is_cut_off(
    settings: Settings, database_url: str
) -> None:
    async with connected(settings, database_url, min_ping_interval=10) as connection:
        connection.send(PING, *(number.to_bytes(8) for number in range(10)))
        ended = await connection.next(GOAWAY)
        assert ended.error == ENHANCE_YOUR_CALM
        assert b"too_many_pings" in ended.payload
