"""Revisions are numbered: what comes before and after one, its name alone tells."""

from __future__ import annotations

# Where a database without tables is.
BASE = "base"


def is_before(revision: str, other: str) -> bool:
    """Tells whether a revision is before another."""
    return _number(revision) < _number(other)


def following(revision: str) -> str:
    """Names the revision after one."""
    return f"{_number(revision) + 1:04}"


def preceding(revision: str) -> str:
    """Names the revision before one."""
    return f"{_number(revision) - 1:04}" if _number(revision) > 1 else BASE


def _number(revision: str) -> int:
    return 0 if revision == BASE else int(revision)
