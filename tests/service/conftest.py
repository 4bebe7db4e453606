"""What the tests of the service share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import structlog

from tests.sessions import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import ModuleType

    from structlog.typing import EventDict

    from tests.clients import Client
    from tests.conftest import Serve

    LogOf = Callable[[ModuleType], list[EventDict]]


@pytest.fixture
def log_of(monkeypatch: pytest.MonkeyPatch) -> LogOf:
    """Takes over the log of a module and returns its lines, which grow as it logs."""

    def take(module: ModuleType) -> list[EventDict]:
        capture = structlog.testing.LogCapture()
        everything = structlog.make_filtering_bound_logger(0)
        log = structlog.wrap_logger(None, processors=[capture], wrapper_class=everything)
        monkeypatch.setattr(module, "log", log)
        return capture.entries

    return take


@pytest.fixture(scope="module")
async def shared_client(serve: Serve, shared_url: str) -> AsyncIterator[Client]:
    """A client of the one server that all tests of a file share: most of them take less time."""
    async with serve(shared_url) as client:
        yield client


@pytest.fixture
async def emptied_url(shared_url: str) -> str:
    """The URL of that server's database, with nothing in it."""
    async with connected(shared_url) as connection:
        await connection.execute("TRUNCATE users RESTART IDENTITY CASCADE")
    return shared_url
