"""`byline-ready`, as a container runs it."""

from __future__ import annotations

import asyncio

import pytest

from service import ready
from service.config import Address
from service.http import pages, showing


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "PATIENCE", 60.0)


@pytest.fixture
async def free() -> Address:
    """An address that nobody listens on."""
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    address = Address(*taken.sockets[0].getsockname())
    taken.close()
    await taken.wait_closed()
    return address


@pytest.mark.parametrize(("is_ready", "said", "status"), [(True, "ok", 0), (False, "not ready", 1)])
async def test_it_says_what_readyz_says(
    free: Address, capsys: pytest.CaptureFixture[str], said: str, status: int, *, is_ready: bool
) -> None:
    async def metrics() -> bytes:
        return b""

    async def answer() -> bool:
        return is_ready

    async with showing(pages(metrics, answer), free):
        assert await asyncio.to_thread(ready.main, [str(free)]) == status
    assert capsys.readouterr().out.splitlines()[-1] == said


def test_a_server_that_is_not_there_is_not_ready(
    free: Address, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ready.main([str(free)]) == 1
    assert f"{free} does not answer: " in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [(), ("127.0.0.1:x",), ("127.0.0.1:1", "more")])
def test_a_misspelt_command_is_told_how_it_is_spelt(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert ready.main(arguments) == 2
    assert capsys.readouterr().err.startswith("usage: ")
