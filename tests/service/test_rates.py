"""How often each caller may call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest
from byline.v1 import users_pb2 as pb
from byline.v1.access_pb2 import ACCESS_READ, ACCESS_WRITE
from grpc_health.v1 import health_pb2

from service import rates
from service.errors import RateExceeded
from service.rates import Rates
from tests.clients import refusal_of

if TYPE_CHECKING:
    from tests.conftest import Serve


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def taken(made: Rates, times: int, caller: str = "ada") -> int:
    """How many of so many calls are taken."""
    count = 0
    for _ in range(times):
        try:
            made.take(caller, ACCESS_READ)
        except RateExceeded:
            continue
        count += 1
    return count


@pytest.mark.parametrize(
    ("pause", "more"), [(0.0, 0), (0.09, 0), (0.1, 1), (0.25, 2), (0.3, 3), (60.0, 3)]
)
def test_a_caller_has_a_burst_and_then_the_rate(pause: float, more: int) -> None:
    made = Rates(10, 3, clock := Clock())
    assert taken(made, 5) == 3
    clock.seconds += pause
    assert taken(made, 5) == more


def test_the_rate_holds_for_a_long_time() -> None:
    made = Rates(7, 1, clock := Clock())
    count = 0
    for _ in range(10_000):
        count += taken(made, 1)
        clock.seconds += 1 / 70
    assert count in {999, 1000, 1001}


def test_who_comes_when_told_to_is_taken_and_a_refusal_costs_nothing() -> None:
    made = Rates(2, 1, clock := Clock())
    made.take("ada", ACCESS_READ)
    clock.seconds += 0.2
    with pytest.raises(RateExceeded) as refused:
        made.take("ada", ACCESS_WRITE)
    assert refused.value.seconds == pytest.approx(0.3)
    with pytest.raises(RateExceeded) as refused:
        made.take("ada", ACCESS_WRITE)
    clock.seconds += refused.value.seconds
    made.take("ada", ACCESS_READ)
    assert (made.refused[ACCESS_READ], made.refused[ACCESS_WRITE]) == (0, 2)


def test_each_caller_has_a_rate_of_its_own() -> None:
    made = Rates(1, 2, Clock())
    assert [taken(made, 5, name) for name in ("ada", "bob", "ada")] == [2, 2, 0]


def test_callers_whose_buckets_are_full_are_forgotten_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rates, "MANY", 10)
    made = Rates(1, 1, clock := Clock())
    for number in range(1000):
        made.take(f"caller {number}", ACCESS_READ)
        clock.seconds += 0.1
    # Ten of them at most have a bucket that is not full.
    assert len(made._full_at) <= 21  # noqa: SLF001 - what it has kept
    assert [taken(made, 1, f"caller {number}") for number in range(990, 1000)][1:] == [0] * 9


async def test_who_calls_more_often_is_told_when_to_come_again(
    serve: Serve, database_url: str
) -> None:
    async with serve(database_url, caller_rate=0.01, caller_burst=2) as client:
        for _ in range(2):
            await client.users.CountUsers(pb.CountUsersRequest())
        refusal = await refusal_of(client.users.CountUsers(pb.CountUsersRequest()))
        assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refusal.reason == "RATE_EXCEEDED"
        assert refusal.retry_after is not None
        assert 0 < refusal.retry_after <= 100
        # Health has no rate.
        await client.health.Check(health_pb2.HealthCheckRequest())
