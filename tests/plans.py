"""How PostgreSQL runs the statements that storage sends.

It plans a prepared statement either for the values at hand or once for any values, as it sees fit:
a plan of either kind has to do.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from sqlalchemy import text

from storage.dialects.direct import AGAIN
from storage.moments import datetime_of
from tests.statements import sent_by

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    import asyncpg

    from storage.database import Database, Transaction
    from storage.sessions import Session
    from tests.statements import Statement

    Call = Callable[[Session], Awaitable[object]]
    Change = Callable[[Transaction], Awaitable[object]]


# PostgreSQL plans for the values at hand this often, before it plans for any.
FIRST_TIMES = 5
PLANNED = text(
    "SELECT custom_plans, generic_plans FROM pg_prepared_statements"
    " WHERE statement LIKE :like AND custom_plans + generic_plans >= :times"
)


class Plan(NamedTuple):
    """How a statement was run.

    Args:
        steps: from the top to the leaves, those that were needed.
        read: rows that were read off tables and indexes, those that were dropped among them.
        sorted: rows that were sorted, but for those that an index had almost in order.
    """

    steps: tuple[str, ...]
    read: int
    sorted: int

    @property
    def indexes(self) -> set[str]:
        """The indexes that were used."""
        return {step.partition(" ")[2] for step in self.steps if " " in step}

    @property
    def read_through(self) -> set[str]:
        """The tables that were read from one end to the other."""
        return {step.partition(":")[2] for step in self.steps if ":" in step}


async def plan_of(
    planner: asyncpg.Connection, statement: Statement, *, generic: bool, run: bool = True
) -> Plan:
    """Explains a prepared statement, planned for its values or for any."""
    mode = "force_generic_plan" if generic else "force_custom_plan"
    await planner.execute(f"SET plan_cache_mode = {mode}")
    await planner.execute(f"PREPARE explained AS {statement.text}")
    try:
        quoted = [
            _quoted(datetime_of(value) if f"${at}::TIMESTAMP" in statement.text else value)
            for at, value in enumerate(statement.values, start=1)
        ]
        values = f"({', '.join(quoted)})" if quoted else ""
        options = "ANALYZE, TIMING off, FORMAT json" if run else "FORMAT json"
        explained = await planner.fetchval(f"EXPLAIN ({options}) EXECUTE explained{values}")
    finally:
        await planner.execute("DEALLOCATE explained")
    nodes = list(_walk(json.loads(explained)[0]["Plan"]))
    if not run:
        return Plan(tuple(map(_step, nodes)), 0, 0)
    ran = [node for node in nodes if node["Actual Loops"] > 0]
    steps = tuple(map(_step, ran))
    return Plan(steps, round(sum(map(_read, ran))), round(sum(map(_sorted, ran))))


async def statements_of(db: Database, call: Call) -> list[Statement]:
    """The statements that a call sends."""
    async with sent_by(db) as sent, db.read() as read:
        await call(read)
    # What is known of texts is asked for once a minute.
    return [each for each in sent.statements if "TABLESAMPLE" not in each.text]


async def statement_of(db: Database, call: Call) -> Statement:
    """The one statement that a call sends."""
    (statement,) = await statements_of(db, call)
    return statement


async def first_sent_by(db: Database, change: Change) -> Statement:
    """The first statement that a change sends. Its effect is undone."""

    class _Undone(Exception):
        """Rolls a change back."""

    async def undone() -> None:
        async with db.transaction() as tx:
            await change(tx)
            raise _Undone

    async with sent_by(db) as sent:
        with pytest.raises(_Undone):
            await undone()
    return sent.statements[0]


def _step(node: dict[str, Any]) -> str:
    kind: str = node["Node Type"].replace(" ", "")
    if kind == "SeqScan":
        return f"{kind}:{node['Relation Name']}"
    return f"{kind} {node['Index Name']}" if "Index Name" in node else kind


def _quoted(value: object) -> str:
    plain = "{{{}}}".format(",".join(map(str, value))) if isinstance(value, list) else str(value)
    return "'" + plain.replace("'", "''") + "'"


def _walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for part in node.get("Plans", ()):
        yield from _walk(part)


def _read(node: dict[str, Any]) -> float:
    kind: str = node["Node Type"]
    if not kind.endswith("Scan") or kind == "Subquery Scan":
        return 0
    dropped = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return float((node["Actual Rows"] + dropped) * node["Actual Loops"])


def _sorted(node: dict[str, Any]) -> float:
    if node["Node Type"] != "Sort":
        return 0
    return float(node["Plans"][0]["Actual Rows"] * node["Actual Loops"])


async def assert_planned_once(
    session: Session, get: Callable[[Sequence[int]], Awaitable[object]], like: str
) -> None:
    """Asserts that a statement is planned for any number of ids, even if they are mostly few.

    Args:
        session: on which it is sent.
        get: sends it for some ids.
        like: tells it from others that are sent as often.
    """
    # Before, SQLAlchemy prepares one of its own.
    sizes = [1] * FIRST_TIMES + [1, 2, 100]
    for size in [1] * (AGAIN - 1) + sizes:
        await get(range(1, size + 1))
    planned = await session.execute(PLANNED, {"like": like, "times": len(sizes)})
    assert planned.one() == (FIRST_TIMES, len(sizes) - FIRST_TIMES)
