"""What the tests of the service share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import structlog

from tests import secrecy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from types import ModuleType

    from structlog.typing import EventDict

    from tests.clients import Client
    from tests.conftest import Serve

    LogOf = Callable[[ModuleType], list[EventDict]]


# A database and a server of its own cost a test more than most of them take. A file whose tests are
# many takes these for its `database_url` and its `client`.


@pytest.fixture(scope="module")
async def shared_client(serve: Serve, shared_url: str) -> AsyncIterator[Client]:
    """A client of a server that all tests of a file share."""
    async with serve(shared_url) as connected_client:
        yield connected_client


@pytest.fixture
def log_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[LogOf]:
    """Takes over the log of a module and returns its lines, which grow as it logs."""
    taken: list[list[EventDict]] = []

    def take(module: ModuleType) -> list[EventDict]:
        capture = structlog.testing.LogCapture()
        everything = structlog.make_filtering_bound_logger(0)
        log = structlog.wrap_logger(None, processors=[capture], wrapper_class=everything)
        monkeypatch.setattr(module, "log", log)
        taken.append(capture.entries)
        return capture.entries

    yield take
    for lines in taken:
        secrecy.check(str(lines))
