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
LACKING = "lacking"


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


def lacking(*kinds: str) -> pytest.MarkDecorator:
    """Marks a test, or by `pytestmark` a file, that is not run on some kinds of databases yet.

    It is no difference: it is to hold there, or to be told apart, and has not been made to.
    """
    return getattr(pytest.mark, LACKING)(*kinds)  # type: ignore[no-any-return] # so too


def marked() -> dict[Difference, list[str]]:
    """Returns the names of the tests that each difference is of, as their files have them."""
    found: dict[Difference, list[str]] = {}
    for test, call in _marks("differs"):
        for argument in call.args:
            if isinstance(argument, ast.Attribute):
                found.setdefault(Difference[argument.attr], []).append(test)
    return found


def unproven() -> dict[str, list[str]]:
    """Returns the names of the tests, or of the files, that each kind of database is lacking."""
    found: dict[str, list[str]] = {}
    for test, call in _marks("lacking"):
        for argument in call.args:
            if isinstance(argument, ast.Constant):
                found.setdefault(str(argument.value), []).append(test)
    return found


def _marks(name: str) -> Iterator[tuple[str, ast.Call]]:
    """Yields each test, or file, that a mark is on, and the call that makes the mark."""
    for file in sorted(Path(__file__).parent.glob("*/test_*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    calls = [(node.name, each) for each in node.decorator_list]
                case ast.Assign(targets=[ast.Name(id="pytestmark")]):
                    calls = [(file.name, node.value)]
                case _:
                    continue
            for where, call in calls:
                match call:
                    case ast.Call(func=ast.Name(id=called)) if called == name:
                        yield where, call
