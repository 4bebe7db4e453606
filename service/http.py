"""The pages that a server has for those who look after it: `/metrics`, `/livez` and `/readyz`.

They are answered on the event loop that serves the calls, so that an answer says that it turns; and
on a port of their own, which need not be open to callers.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import structlog
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from service.ports import CannotListen

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from service.config import Address

    Page = Callable[[], Awaitable["Answer"]]

# Seconds in which a request has to be there, and its answer taken.
PATIENCE = 10.0
METHODS = {"GET", "HEAD"}


log = structlog.get_logger("byline.http")


class Answer(NamedTuple):
    """What a page says."""

    status: HTTPStatus
    body: bytes
    kind: str = "text/plain; charset=utf-8"


OK = Answer(HTTPStatus.OK, b"ok\n")
NOT_READY = Answer(HTTPStatus.SERVICE_UNAVAILABLE, b"not ready\n")
NOT_FOUND = Answer(HTTPStatus.NOT_FOUND, b"there are /metrics, /livez and /readyz\n")
NOT_ALLOWED = Answer(HTTPStatus.METHOD_NOT_ALLOWED, b"there is GET and HEAD\n")
BAD_REQUEST = Answer(HTTPStatus.BAD_REQUEST, b"not HTTP\n")


def pages(
    metrics: Callable[[], Awaitable[bytes]], is_ready: Callable[[], Awaitable[bool]]
) -> Mapping[str, Page]:
    """Returns the pages by their paths.

    Args:
        metrics: returns the metrics in Prometheus' text format.
        is_ready: tells whether calls are to be sent here.
    """

    async def show_metrics() -> Answer:
        return Answer(HTTPStatus.OK, await metrics(), CONTENT_TYPE_PLAIN_0_0_4)

    async def show_life() -> Answer:
        return OK

    async def show_readiness() -> Answer:
        return OK if await is_ready() else NOT_READY

    return {"/metrics": show_metrics, "/livez": show_life, "/readyz": show_readiness}


@asynccontextmanager
async def showing(found: Mapping[str, Page], where: Address | Path | None) -> AsyncIterator[None]:
    """Answers those who ask for pages while the block lasts.

    Args:
        found: the pages by their paths.
        where: an address, a Unix socket, or nowhere.

    Raises:
        CannotListen: when somebody else has the address, or nobody can have it.
    """
    if where is None:
        yield
        return

    async def talk(reader: StreamReader, writer: StreamWriter) -> None:
        # Whoever leaves, or is too slow, has no answer to be given.
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(PATIENCE):
                await _answer(found, reader, writer)
        writer.close()

    try:
        if isinstance(where, Path):
            server = await asyncio.start_unix_server(talk, where)
        else:
            server = await asyncio.start_server(talk, where.host, where.port)
    except OSError as error:
        raise CannotListen(f"cannot show metrics on {where}: {error.strerror}") from None
    async with server:
        if not isinstance(where, Path):
            port = server.sockets[0].getsockname()[1]
            log.info("showing metrics", listen=f"{where.host}:{port}")
        yield


async def fetch(socket: Path, path: str) -> Answer | None:
    """Returns a page that another process has at a Unix socket; None when it does not answer."""
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_unix_connection(socket)
            writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
            head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
            writer.close()
        return Answer(HTTPStatus(int(head.split()[1])), body)
    except (OSError, TimeoutError, IndexError, ValueError):
        return None


async def _answer(found: Mapping[str, Page], reader: StreamReader, writer: StreamWriter) -> None:
    """Reads one request and answers it."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.partition(b"\r\n")[0].decode().split(" ")
    except (asyncio.LimitOverrunError, ValueError):
        method, answer = "GET", BAD_REQUEST
    else:
        page = found.get(target.partition("?")[0])
        answer = await page() if page else NOT_FOUND
        if method not in METHODS:
            answer = NOT_ALLOWED
    told = {
        "Content-Type": answer.kind,
        "Content-Length": len(answer.body),
        "Connection": "close",
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    writer.write(f"HTTP/1.1 {answer.status} {answer.status.phrase}\r\n{lines}\r\n".encode())
    if method != "HEAD":
        writer.write(answer.body)
    await writer.drain()
