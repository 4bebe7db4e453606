"""Few things differ between the databases, and each is written down."""

from __future__ import annotations

from pathlib import Path

from tests.differences import ON, Difference, marked
from tests.engines import KINDS

DOCUMENT = Path(__file__).parent.parent / "docs" / "databases.md"
MOST = 5


def test_there_are_few_differences() -> None:
    assert len(Difference) <= MOST


def test_each_difference_is_of_databases_and_not_of_all() -> None:
    assert set(ON) == set(Difference)
    for kinds in ON.values():
        assert set() < set(kinds) < set(KINDS)


def test_each_difference_is_written_down_and_no_test_has_another() -> None:
    headings = [
        line.removeprefix("### ")
        for line in DOCUMENT.read_text().splitlines()
        if line.startswith("### ")
    ]
    assert {each.value for each in Difference} <= set(headings)
    assert set(marked()) == set(Difference)
