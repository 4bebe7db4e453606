"""The pages for those who look after a server: who is answered, and how."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest

from service import http
from service.config import Address
from service.http import fetch, pages, showing
from service.ports import CannotListen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Shown:
    """What the pages show, which a test may change."""

    def __init__(self) -> None:
        self.ready = True
        self.figures = b"figures 1.0\n"

    async def metrics(self) -> bytes:
        return self.figures

    async def is_ready(self) -> bool:
        return self.ready


@asynccontextmanager
async def shown_at(where: Path) -> AsyncIterator[Shown]:
    shown = Shown()
    async with showing(pages(shown.metrics, shown.is_ready), where):
        yield shown


async def talk(where: Path, sent: bytes) -> tuple[str, dict[str, str], bytes]:
    """Sends bytes, and returns the status line, the headers and the body that come back."""
    reader, writer = await asyncio.open_unix_connection(where)
    writer.write(sent)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    first, *lines = head.decode().split("\r\n")
    return first, dict(line.split(": ", 1) for line in lines), body


@pytest.fixture
def where(tmp_path: Path) -> Path:
    return tmp_path / "pages"


async def test_a_page_is_answered_as_http_has_it(where: Path) -> None:
    async with shown_at(where):
        line, headers, body = await talk(where, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (line, body) == ("HTTP/1.1 200 OK", b"figures 1.0\n")
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert headers["Content-Length"] == str(len(body))


async def test_the_head_of_a_page_has_no_body(where: Path) -> None:
    async with shown_at(where):
        line, headers, body = await talk(where, b"HEAD /metrics HTTP/1.1\r\n\r\n")
    assert (line, headers["Content-Length"], body) == ("HTTP/1.1 200 OK", "12", b"")


@pytest.mark.parametrize("ready", [True, False])
async def test_a_server_that_is_not_ready_is_alive(where: Path, *, ready: bool) -> None:
    async with shown_at(where) as shown:
        shown.ready = ready
        live, readiness = await fetch(where, "/livez"), await fetch(where, "/readyz")
    assert live
    assert readiness
    assert live.status is HTTPStatus.OK
    assert (readiness.status is HTTPStatus.OK) == ready


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics/more HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
        (b"nonsense\r\n\r\n", 400),
        (b"\xff\xfe /metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 100_000, 400),
    ],
)
async def test_what_is_no_page_is_refused_and_the_next_is_answered(
    where: Path, sent: bytes, status: int
) -> None:
    async with shown_at(where):
        line, _, _ = await talk(where, sent)
        assert line.split()[1] == str(status)
        assert await fetch(where, "/livez")


async def test_who_says_nothing_is_not_waited_for(
    where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "PATIENCE", 0.05)
    async with shown_at(where):
        reader, writer = await asyncio.open_unix_connection(where)
        writer.write(b"GET /metrics HT")
        assert await reader.read() == b""
        writer.close()


async def test_a_page_of_a_process_that_is_gone_is_none(where: Path) -> None:
    assert await fetch(where, "/livez") is None
    async with shown_at(where):
        pass
    assert await fetch(where, "/livez") is None


async def test_an_address_that_somebody_has_is_refused() -> None:
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    address = Address(*taken.sockets[0].getsockname())
    shown = Shown()
    async with taken:
        with pytest.raises(CannotListen, match=str(address.port)):
            async with showing(pages(shown.metrics, shown.is_ready), address):
                pass
