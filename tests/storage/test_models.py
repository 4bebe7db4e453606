"""What holds for every table, those to come among them."""

from __future__ import annotations

import pytest
from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    PrimaryKeyConstraint,
    String,
    Table,
    UniqueConstraint,
)

from storage.casefold import EXPANSION
from storage.models import Base

TABLES = [pytest.param(table, id=table.name) for table in Base.metadata.sorted_tables]
PREFIXES: dict[type[object], str] = {
    PrimaryKeyConstraint: "pk",
    ForeignKeyConstraint: "fk",
    UniqueConstraint: "uq",
    CheckConstraint: "ck",
}
# PostgreSQL cuts names off after 63 bytes, MySQL refuses them after 64.
LONGEST_NAME = 63


def test_no_relationship_loads_on_its_own() -> None:
    relationships = [each for mapper in Base.registry.mappers for each in mapper.relationships]
    assert relationships
    assert {str(each): each.lazy for each in relationships if each.lazy != "raise"} == {}


@pytest.mark.parametrize("table", TABLES)
def test_every_constraint_and_index_has_a_name_by_the_convention(table: Table) -> None:
    for constraint in table.constraints:
        name = str(constraint.name)
        assert name.startswith(f"{PREFIXES[type(constraint)]}_{table.name}")
    for index in table.indexes:
        assert str(index.name).startswith(f"ix_{table.name}_")
    names = [each.name for each in table.constraints] + [each.name for each in table.indexes]
    assert all(len(str(name)) <= LONGEST_NAME for name in names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("table", TABLES)
def test_every_reference_has_an_index_and_says_what_a_deletion_does(table: Table) -> None:
    """Without the index, each deletion of what is referred to reads the whole table."""
    indexed = [column for index in table.indexes for column in list(index.columns)[:1]]
    indexed.append(next(iter(table.primary_key.columns)))
    for key in table.foreign_key_constraints:
        assert next(iter(key.columns)) in indexed
        assert key.ondelete


def columns_of(kind: type[object]) -> list[object]:
    return [
        pytest.param(column, id=str(column))
        for table in Base.metadata.sorted_tables
        for column in table.columns
        if isinstance(column.type, kind)
    ]


@pytest.mark.parametrize("column", columns_of(DateTime))
def test_every_moment_knows_its_time_zone(column: Column[DateTime]) -> None:
    assert isinstance(column.type, DateTime)
    assert column.type.timezone


@pytest.mark.parametrize(
    "column",
    [each for each in columns_of(String) if each.id.endswith("_key")],  # type: ignore[attr-defined]
)
def test_every_folded_text_has_room_and_is_compared_by_code_point(column: Column[String]) -> None:
    given = column.table.columns[column.name.removesuffix("_key")]
    assert isinstance(column.type, String)
    assert isinstance(given.type, String)
    assert column.type.collation == "C"
    assert column.type.length == (given.type.length or 0) * EXPANSION
