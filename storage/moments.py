"""Moments, as all of Byline has them between the database and the message.

A datetime costs four times as much to read, and three times as much to write into a message.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TypeAlias

# Microseconds since 1970, by UTC.
Moment: TypeAlias = int

EPOCH: Moment = 0
# What a second has.
SECOND: Moment = 1_000_000
TICK = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment_of(when: datetime) -> Moment:
    """Returns the moment that a datetime with a zone says."""
    return (when - _EPOCH) // TICK


def datetime_of(moment: Moment) -> datetime:
    """Returns the datetime, by UTC, that says the same.

    Raises:
        OverflowError: when it is beyond the calendar.
    """
    return _EPOCH + moment * TICK


# All that a message or a database may say: the years 1 to 9999.
FIRST = moment_of(datetime.min.replace(tzinfo=UTC))
LAST = moment_of(datetime.max.replace(tzinfo=UTC))
