"""Moments, and the datetimes that say the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from storage.moments import EPOCH, FIRST, LAST, SECOND, datetime_of, moment_of

ZONES = [timedelta(0), timedelta(hours=5, minutes=45), timedelta(hours=-11), timedelta(hours=14)]


@pytest.mark.parametrize(
    ("moment", "when"),
    [
        (EPOCH, datetime(1970, 1, 1, tzinfo=UTC)),
        (EPOCH - 1, datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        (951_782_400 * SECOND + 1, datetime(2000, 2, 29, 0, 0, 0, 1, tzinfo=UTC)),
        (FIRST, datetime(1, 1, 1, tzinfo=UTC)),
        (LAST, datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    ],
)
def test_a_moment_is_of_one_datetime(moment: int, when: datetime) -> None:
    assert moment_of(when) == moment
    assert datetime_of(moment) == when


@pytest.mark.parametrize("zone", ZONES, ids=str)
def test_a_moment_is_the_same_in_every_zone(zone: timedelta) -> None:
    when = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    assert moment_of(when.astimezone(timezone(zone))) == moment_of(when)


@pytest.mark.parametrize("moment", [FIRST - 1, LAST + 1])
def test_a_moment_beyond_the_calendar_is_no_datetime(moment: int) -> None:
    with pytest.raises(OverflowError):
        datetime_of(moment)
