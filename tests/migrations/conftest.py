"""What the tests of migrations share."""

from __future__ import annotations

from typing import cast

import pytest

# The engines whose schemas are migrated, each by the fixture that has an empty database of it.
ENGINES = {"postgresql": "empty_url"}


@pytest.fixture(params=ENGINES)
def engine_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database without tables, on each engine in turn."""
    return cast("str", request.getfixturevalue(ENGINES[request.param]))
