"""What does not hold on every kind of database, and why: all of it, and few.

`docs/databases.md` tells operators of each by its name. tests/test_differences.py holds that it
does, and that there are no more of them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Test = Callable[..., object]

MARK = "differs"


class Difference(StrEnum):
    """A difference, as its heading in `docs/databases.md` calls it."""

    ONE_WRITER = "SQLite has one writer"
    NO_SERVER = "SQLite has no server"
    NOTHING_AT_COMMIT = "Only PostgreSQL checks anything as it commits"


ON = {
    Difference.ONE_WRITER: ("sqlite",),
    Difference.NO_SERVER: ("sqlite",),
    Difference.NOTHING_AT_COMMIT: ("mariadb", "sqlite"),
}


def differs(difference: Difference) -> Callable[[Test], Test]:
    """Marks a test that is not run on the databases that a difference is of."""
    return getattr(pytest.mark, MARK)(difference)  # type: ignore[no-any-return] # pytest's marks have any name
