"""What the tests of migrations share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

# The engines whose schemas are migrated, each by the fixture that has an empty database of it.
ENGINES = {"postgresql": "empty_url"}


@pytest.fixture(params=ENGINES)
def engine_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database without tables, on each engine in turn."""
    yield request.getfixturevalue(ENGINES[request.param])
