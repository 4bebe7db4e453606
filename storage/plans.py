"""The plans of statements that were run, asked for afterwards and without running them again."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from storage.dialects.plans import EXPLAIN, plan_of
from storage.usage import COMMIT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.sessions import Read
    from storage.usage import Run


class Plan(NamedTuple):
    """How a database runs a statement.

    Args:
        sql: the statement, with placeholders for all values.
        lines: of the plan, which have no values either.
    """

    sql: str
    lines: list[str]


def statements_of(runs: Sequence[Run]) -> list[Run]:
    """Returns the statements among what was run: those that the database was told whole."""
    return [run for run in runs if run.function != COMMIT and run.sql is not None]


async def explain(read: Read, run: Run) -> Plan:
    """Returns the plan of a statement; that for the first row of one that was run for many.

    Raises:
        StorageError: as `storage.errors.translate` says.
    """
    values = run.parameters
    if isinstance(values, list):
        values = values[0] if values else ()
    found = await read.send(f"{EXPLAIN[read.dialect]}{run.sql}", values)
    columns = list(found.keys())
    return Plan(str(run.sql), plan_of(read.dialect, found.all(), columns))
