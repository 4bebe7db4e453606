"""What a statement on MariaDB is told of its caller's deadline, and what that costs."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from storage.dialects import mysql
from storage.usage import MARGIN, Usage, seconds_left, usage
from tests.onlookers import looking_on
from tests.processes import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Open

BOUND = text("SELECT @@max_statement_time AS bound")
# A statement with settings of its own counts once.
SENT = text("SHOW SESSION STATUS LIKE 'Questions'")
FOR_EVER = text("SELECT SUM(a.seq * b.seq) FROM seq_1_to_1000000 AS a, seq_1_to_1000000 AS b")
# How many statements are sent again to see what stopped them.
ASKED = """
    SELECT COUNT(*) FROM information_schema.processlist
    WHERE db = DATABASE() AND id <> CONNECTION_ID() AND info LIKE '%lock_wait_timeout = 0%seq%'
"""


@pytest.fixture(params=[2000.0, 6000.0])
def seconds(request: pytest.FixtureRequest) -> Iterator[float]:
    """The seconds that the caller has."""
    token = usage.set(Usage(deadline=time.monotonic() + request.param))
    yield request.param
    usage.reset(token)


async def test_a_statement_is_told_the_closer_bound_in_its_own_round_trip(
    opened: Open, seconds: float
) -> None:
    db = opened(size=1, overflow=0, statement_timeout=3000)
    async with db.read() as read:
        before = int((await read.execute(SENT)).one().Value)
        most = seconds_left()
        told = (await read.execute(BOUND)).scalar_one()
        least = seconds_left()
        assert int((await read.execute(SENT)).one().Value) == before + 2
        # To the millisecond.
        assert least - 0.001 < told + MARGIN < most + 0.001 if seconds < 3000 else told == 3000
        usage.get().deadline = float("inf")
        assert (await read.execute(BOUND)).scalar_one() == 3000


async def test_who_leaves_while_it_is_asked_what_stopped_a_statement_leaves_nothing_behind(
    opened: Open, shared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = opened(size=1, overflow=0)
    # That is asked within half of what the caller has left: for longer than it takes to see it.
    monkeypatch.setattr(mysql, "seconds_left", lambda: 3600.0)

    async def be_stopped() -> None:
        usage.set(Usage(deadline=time.monotonic() + 0.2))
        async with db.transaction() as tx:
            await tx.execute(FOR_EVER)

    async with looking_on(shared_url) as onlooker:

        async def are_asked(times: int) -> bool:
            return bool(await onlooker.value(ASKED) == times)

        leaving = asyncio.ensure_future(be_stopped())
        await until(partial(are_asked, 1))
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await until(partial(are_asked, 0))
    async with db.read() as read:
        assert (await read.execute(text("SELECT 1"))).scalar_one() == 1
