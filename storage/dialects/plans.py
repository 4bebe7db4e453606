"""How a database is asked for the plan of a statement, and what it answers, without values.

A statement is planned and never run. PostgreSQL plans it for its values, and shows those: they are
taken out. The others show none.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EXPLAIN = {"postgresql": "EXPLAIN ", "mysql": "EXPLAIN ", "sqlite": "EXPLAIN QUERY PLAN "}
_TEXT = re.compile(r"'(?:[^']|'')*'")
# Not a part of a name, as in `users_1`, and none that the planner made up, as in `$0`.
_NUMBER = re.compile(r"(?<![\w$.])\d+(?:\.\d+)?")


def plan_of(dialect: str, rows: Sequence[Any], columns: Sequence[str]) -> list[str]:
    """Returns the lines of a plan.

    Args:
        dialect: which kind of database planned.
        rows: that it answered.
        columns: their names.
    """
    return _PLANS[dialect](rows, columns)


def _of_postgresql(rows: Sequence[Any], _: Sequence[str]) -> list[str]:
    # A text may have lines of its own, which look like those of the plan.
    whole = _TEXT.sub("?", "\n".join(row[0] for row in rows))
    return [_without_numbers(line) for line in whole.splitlines()]


def _without_numbers(line: str) -> str:
    """Takes the numbers out of a condition; those of a node, as its costs, are no values."""
    name, colon, told = line.partition(": ")
    return f"{name}{colon}{_NUMBER.sub('?', told)}"


def _of_mysql(rows: Sequence[Any], columns: Sequence[str]) -> list[str]:
    return [
        " ".join(
            f"{name}={value}"
            for name, value in zip(columns, row, strict=True)
            if value not in {None, ""}
        )
        for row in rows
    ]


def _of_sqlite(rows: Sequence[Any], _: Sequence[str]) -> list[str]:
    depths = {0: -1}
    lines = []
    for number, parent, _unused, detail in rows:
        depths[number] = depths.get(parent, -1) + 1
        lines.append("  " * depths[number] + detail)
    # To write rows that are given takes none.
    return lines or ["no steps"]


_PLANS: dict[str, Callable[[Sequence[Any], Sequence[str]], list[str]]] = {
    "postgresql": _of_postgresql,
    "mysql": _of_mysql,
    "sqlite": _of_sqlite,
}
