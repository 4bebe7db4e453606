"""Servers as processes that start at once: forked from one that has imported all they run.

A hundred of them start in the time in which Python reads Byline's modules thirty times.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

from service import logs
from service.config import Address, Settings
from service.loop import run
from service.server import serve
from tests.processes import until

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator
    from multiprocessing.synchronize import Event

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload([__name__])


def _serve(settings: Settings, url: str, address: Address, ready: Event) -> None:
    logs.configure(settings)
    run(serve(settings, url, address, None, lambda _: ready.set()))


class Forked:
    """A server in a process of its own.

    Args:
        settings: how it behaves; with more workers than one it shares its port.
        url: of its database.
        address: where it listens.
    """

    def __init__(self, settings: Settings, url: str, address: Address) -> None:
        self._ready = _forks.Event()
        self._process = _forks.Process(target=_serve, args=(settings, url, address, self._ready))
        self._process.start()

    async def started(self) -> None:
        """Waits until it takes calls."""
        await until(lambda: self._ready.is_set() or not self._process.is_alive())
        assert self._process.is_alive()

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        assert self._process.pid
        os.kill(self._process.pid, number)

    async def status(self) -> int | None:
        """Waits for its end, and returns its exit status."""
        await until(lambda: not self._process.is_alive())
        return self._process.exitcode

    def kill(self) -> None:
        """Ends it by force, if it has not ended."""
        self._process.kill()
        self._process.join()


@contextmanager
def shared_port() -> Iterator[Address]:
    """Keeps a port for servers that share it, while the block lasts."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        yield Address(*held.getsockname())
