"""What does not hold on every kind of database, and why: all of it, and few.

`docs/databases.md` tells operators of each by its name. tests/test_differences.py holds that it
does, and that there are no more of them.
"""

from __future__ import annotations

import ast
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Test = Callable[..., object]

MARK = "differs"


class Difference(StrEnum):
    """A difference, as its heading in `docs/databases.md` calls it."""

    ONE_WRITER = "SQLite has one writer"
    NO_SERVER = "SQLite has no server"
    NO_BOUNDS = "SQLite bounds no text"
    NOTHING_AT_COMMIT = "Only PostgreSQL checks anything as it commits"


ON = {
    Difference.ONE_WRITER: ("sqlite",),
    Difference.NO_SERVER: ("sqlite",),
    Difference.NO_BOUNDS: ("sqlite",),
    Difference.NOTHING_AT_COMMIT: ("mariadb", "sqlite"),
}


def differs(difference: Difference) -> Callable[[Test], Test]:
    """Marks a test that is not run on the databases that a difference is of."""
    return getattr(pytest.mark, MARK)(difference)  # type: ignore[no-any-return] # pytest's marks have any name


def marked() -> dict[Difference, list[str]]:
    """Returns the names of the tests that each difference is of, as their files have them."""
    found: dict[Difference, list[str]] = {}
    for file in sorted(Path(__file__).parent.glob("*/test_*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for difference in _differences_of(node):
                    found.setdefault(difference, []).append(node.name)
    return found


def _differences_of(test: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Difference]:
    for decorator in test.decorator_list:
        match decorator:
            case ast.Call(func=ast.Name(id="differs"), args=[ast.Attribute(attr=name)]):
                yield Difference[name]
