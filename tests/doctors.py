"""`byline doctor`, as tests ask it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import Command, Ended


def lines_of(ended: Ended) -> dict[str, tuple[str, str]]:
    """What was found, by what was looked at."""
    found = re.findall(r"^(ok|FAIL) +(\w+) +(.+)$", ended.output, re.MULTILINE)
    return {name: (outcome, told) for outcome, name, told in found}


def examine(byline: Command, url: str, *flags: object) -> Ended:
    return byline("doctor", "--database-url", url, "--listen", "127.0.0.1:0", *flags)
