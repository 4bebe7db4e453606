"""What the tests of the service share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import structlog

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from structlog.typing import EventDict

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
