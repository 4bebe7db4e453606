"""Which transfers are measured, and which ways of making them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bench.credits.traffic import Traffic

HOT_ACCOUNTS = 2
BATCH = 50
IN_FLIGHT = 64
BATCHES_IN_FLIGHT = 8


class Pattern(StrEnum):
    """Who gives to whom: two to each other, also with request ids; all to one; any to any."""

    HOT = "hot"
    NAMED = "hot, ids"
    SHOP = "shop"
    COLD = "cold"


class Way(StrEnum):
    """How it is made: by Transfer, gathered or not, by BatchTransfer, or without Byline."""

    ALONE = "one by one"
    GATHERED = "gathered"
    BATCH = f"batches of {BATCH}"
    PGBENCH = "pgbench"


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is measured against the others."""

    pattern: Pattern
    way: Way

    @property
    def name(self) -> str:
        """What it is called."""
        return f"{self.pattern}: {self.way}"

    @property
    def in_flight(self) -> int:
        """Calls, or pgbench's transactions, under way at once."""
        return BATCHES_IN_FLIGHT if self.way is Way.BATCH else IN_FLIGHT

    def accounts(self, total: int) -> int:
        """Returns how many accounts take part."""
        return HOT_ACCOUNTS if self.pattern in {Pattern.HOT, Pattern.NAMED} else total

    def traffic(self, total: int) -> Traffic:
        """Returns its transfers, where there are so many accounts."""
        return Traffic(
            accounts=self.accounts(total),
            shop=self.pattern is Pattern.SHOP,
            batch=BATCH if self.way is Way.BATCH else 1,
            named=self.pattern is Pattern.NAMED,
        )


ONE_BY_ONE = (Way.ALONE, Way.GATHERED)
SCENARIOS = (
    *(Scenario(Pattern.HOT, way) for way in Way),
    *(Scenario(Pattern.NAMED, way) for way in ONE_BY_ONE),
    *(Scenario(Pattern.SHOP, way) for way in ONE_BY_ONE),
    *(Scenario(Pattern.COLD, way) for way in Way),
)
# What is set against what, in each pattern that has both.
COMPARED = ((Way.GATHERED, Way.ALONE), (Way.BATCH, Way.PGBENCH))
