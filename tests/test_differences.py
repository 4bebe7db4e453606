"""Few things differ between the databases, and each is written down."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.differences import ON, Difference, marked
from tests.engines import KINDS

DOCUMENT = Path(__file__).parent.parent / "docs" / "databases.md"
MOST = 5
TESTS = Path(__file__).parent
# What stands in the last cell of a row of a table whose last column is the test.
ROWS = [
    row.strip(" |").rsplit("|", 1)
    for rows in re.findall(
        r"^\|.*\| the test \|\n\|[-| ]+\|\n((?:\|.*\|\n)+)", DOCUMENT.read_text(), re.MULTILINE
    )
    for row in rows.splitlines()
]


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


def test_the_tables_have_rows() -> None:
    assert len(ROWS) > len(Difference)


@pytest.mark.parametrize(("row", "proof"), ROWS, ids=[row.split("|")[0].strip() for row, _ in ROWS])
def test_each_row_names_tests_that_there_are(row: str, proof: str) -> None:
    del row
    written = "".join(file.read_text() for file in TESTS.rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", proof)
    assert named or proof.strip() == "the same"
    for name in named:
        assert re.search(rf"^(async )?def {name}\(", written, re.MULTILINE), name
