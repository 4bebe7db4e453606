"""How often each caller may call: a bucket of tokens for each, which fills at a steady rate."""

from __future__ import annotations

from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING

from service.errors import RateExceeded

if TYPE_CHECKING:
    from collections.abc import Callable

    from byline.v1.access_pb2 import Access

# Callers that are known before those are forgotten whose buckets have filled.
MANY = 1024


class Rates:
    """The buckets of all callers. A call takes a token; a bucket is full to begin with.

    Args:
        rate: tokens a second that fill a bucket.
        burst: tokens that a bucket holds.
        clock: tells the time in seconds.

    Attributes:
        refused: calls that found their bucket empty, by the access that they need.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = monotonic) -> None:
        self.refused: Counter[Access.ValueType] = Counter()
        self._interval = 1 / rate
        self._burst = burst
        self._clock = clock
        # When each bucket will be full again: all that a bucket is.
        self._full_at: dict[str, float] = {}
        self._many = MANY

    def take(self, caller: str, access: Access.ValueType) -> None:
        """Takes a token from a caller's bucket.

        Args:
            caller: whose, by identity.
            access: that the call needs.

        Raises:
            RateExceeded: when the bucket is empty.
        """
        now = self._clock()
        full_at = max(now, self._full_at.get(caller, now)) + self._interval
        missing = full_at - now - self._burst * self._interval
        # Sums of many intervals are not exact.
        if missing > self._interval / 1000:
            self.refused[access] += 1
            raise RateExceeded(missing)
        self._full_at[caller] = full_at
        if len(self._full_at) > self._many:
            self._forget(now)

    def _forget(self, now: float) -> None:
        """Forgets the buckets that are full, which are as those of callers never seen."""
        self._full_at = {caller: at for caller, at in self._full_at.items() if at > now}
        self._many = max(MANY, 2 * len(self._full_at))
