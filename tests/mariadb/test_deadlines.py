"""What a statement on MariaDB is told of its caller's deadline, and what that costs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from storage.usage import Usage, usage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Open

BOUND = text("SELECT @@max_statement_time AS bound")
# A statement with settings of its own counts once.
SENT = text("SHOW SESSION STATUS LIKE 'Questions'")


@pytest.fixture(params=[20.0, 100.0])
def seconds(request: pytest.FixtureRequest) -> Iterator[float]:
    """The seconds that the caller has."""
    token = usage.set(Usage(deadline=time.monotonic() + request.param))
    yield request.param
    usage.reset(token)


async def test_a_statement_is_told_the_closer_bound_in_its_own_round_trip(
    opened: Open, seconds: float
) -> None:
    db = opened(size=1, overflow=0, statement_timeout=30)
    async with db.read() as read:
        before = int((await read.execute(SENT)).one().Value)
        told = (await read.execute(BOUND)).scalar_one()
        assert int((await read.execute(SENT)).one().Value) == before + 2
        assert seconds - 1 < told < seconds if seconds < 30 else told == 30
        usage.get().deadline = float("inf")
        assert (await read.execute(BOUND)).scalar_one() == 30
