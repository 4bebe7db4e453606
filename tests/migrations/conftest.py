"""What the tests of migrations share."""

from __future__ import annotations

import pytest


@pytest.fixture
def engine_url(empty_url: str) -> str:
    """The URL of a database without tables, of each kind in turn."""
    return empty_url
