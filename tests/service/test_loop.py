"""The event loop, as Byline has it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import grpc.aio
import pytest

from service import loop
from tests.processes import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STOPS = (signal.SIGTERM, signal.SIGINT)


async def test_a_reader_that_takes_one_byte_and_all_there_is_comes_round_once() -> None:
    told, tell = socket.socketpair()
    with closing(told), closing(tell):
        told.settimeout(0)
        rounds: list[bytes] = []
        read = loop.at_one_go(told, lambda: rounds.append(told.recv(1)))
        running = asyncio.get_running_loop()
        running.add_reader(told, read)
        for event in (b"123", b"4"):
            tell.send(event)
            before = len(rounds)
            await until(lambda: len(rounds) > before)  # noqa: B023 - called here
            with pytest.raises(BlockingIOError):
                told.recv(1)
        running.remove_reader(told)
    assert rounds == [b"3", b"4"]


async def test_it_is_how_grpc_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    if loop.factory is loop.plain:
        pytest.skip("there is no uvloop for this system")
    readers = 0
    at_one_go = loop.at_one_go

    def counted(told: socket.socket, read: Callable[[], None]) -> Callable[[], None]:
        nonlocal readers
        readers += 1
        return at_one_go(told, read)

    async def serve() -> None:
        server = grpc.aio.server()
        await server.start()
        await server.stop(None)

    monkeypatch.setattr(loop, "at_one_go", counted)
    await asyncio.to_thread(loop.run, serve())
    assert readers == 1


@pytest.fixture
def heeded() -> Iterator[None]:
    """Gives signals back to those who heeded them before the test."""
    before = [(number, signal.getsignal(number)) for number in STOPS]
    yield
    for number, heed in before:
        signal.signal(number, heed)


@pytest.mark.parametrize("make", [asyncio.new_event_loop, loop.factory])
@pytest.mark.parametrize("number", STOPS)
@pytest.mark.usefixtures("heeded")
def test_a_signal_ends_what_waits_for_it_and_another_one_not_what_comes_after(
    number: signal.Signals, make: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def wait_to_be_stopped() -> None:
        stop = loop.stop_on_signals()
        os.kill(os.getpid(), number)
        await asyncio.wait_for(stop.wait(), PATIENCE)

    loop.run(wait_to_be_stopped(), make)
    for each in STOPS:
        signal.raise_signal(each)
