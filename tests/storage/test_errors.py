"""What storage refuses, and how the database's errors become it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import asyncpg
import pytest
from sqlalchemy import UniqueConstraint, text

from storage import errors
from storage.errors import (
    UNIQUE_KEYS,
    AlreadyExists,
    Contention,
    DatabaseDown,
    LockTimeout,
    StatementTimeout,
    StillReferenced,
    StorageError,
    Unexpected,
    of_sqlstate,
)
from storage.models import Base

if TYPE_CHECKING:
    from storage.database import Database

MEANINGS = {
    # What callers may do differently, or try again.
    "23001": StillReferenced,
    "23503": StillReferenced,
    "40000": Contention,
    "40001": Contention,
    "40002": Contention,
    "40003": Contention,
    "40P01": Contention,
    "55P03": LockTimeout,
    "57014": StatementTimeout,
    # A database that is away, or that is not what it should be.
    "08000": DatabaseDown,
    "08006": DatabaseDown,
    "25006": DatabaseDown,
    "28000": DatabaseDown,
    "28P01": DatabaseDown,
    "3D000": DatabaseDown,
    "53100": DatabaseDown,
    "53200": DatabaseDown,
    "53300": DatabaseDown,
    "57P01": DatabaseDown,
    "57P02": DatabaseDown,
    "57P03": DatabaseDown,
    "57P04": DatabaseDown,
    "57P05": DatabaseDown,
    "58000": DatabaseDown,
    "58030": DatabaseDown,
    # Faults of Byline's own.
    "22001": Unexpected,
    "23502": Unexpected,
    "23505": Unexpected,
    "23514": Unexpected,
    "25P02": Unexpected,
    "42601": Unexpected,
    "42P01": Unexpected,
    "42501": Unexpected,
    "55006": Unexpected,
    "P0001": Unexpected,
    "XX000": Unexpected,
    # Codes that no PostgreSQL has yet.
    "ZZ999": Unexpected,
    "08ZZZ": DatabaseDown,
}

ALL_SQLSTATES = sorted(
    {
        state
        for _, kind in inspect.getmembers(asyncpg.exceptions, inspect.isclass)
        if (state := getattr(kind, "sqlstate", None))
    }
)


# Who writes these has locked what they are about: broken, they are a fault of Byline's own.
GUARDED_KEYS = {"ix_ledger_resolution"}


def unique_names() -> set[str]:
    """The names of all unique constraints and indexes that are no primary keys."""
    names = set()
    for table in Base.metadata.tables.values():
        unique = [each for each in table.constraints if isinstance(each, UniqueConstraint)]
        names |= {str(each.name) for each in unique}
        names |= {str(index.name) for index in table.indexes if index.unique}
    return names


def test_every_unique_key_has_a_resource_and_a_field() -> None:
    assert {*UNIQUE_KEYS, *GUARDED_KEYS} == unique_names()


@pytest.mark.parametrize("name", sorted(UNIQUE_KEYS))
def test_a_broken_unique_key_is_told_by_its_resource_and_field(name: str) -> None:
    error = of_sqlstate("23505", name)
    assert isinstance(error, AlreadyExists)
    assert (error.resource, error.field) == UNIQUE_KEYS[name]


@pytest.mark.parametrize(("sqlstate", "meaning"), MEANINGS.items())
def test_a_sqlstate_has_its_meaning(sqlstate: str, meaning: type[StorageError]) -> None:
    assert type(of_sqlstate(sqlstate)) is meaning


def test_every_sqlstate_has_a_meaning_whatever_constraint_comes_along() -> None:
    assert len(ALL_SQLSTATES) > 200
    for sqlstate in (*ALL_SQLSTATES, "", "4", "\0\0\0\0\0"):
        for constraint in ("", "uq_users_email_key", "uq_nowhere"):
            meant = of_sqlstate(sqlstate, constraint)
            assert isinstance(meant, StorageError)
            assert isinstance(meant, AlreadyExists) == (
                (sqlstate, constraint) == ("23505", "uq_users_email_key")
            )


async def test_a_value_that_the_driver_cannot_send_is_an_unexpected_error(db: Database) -> None:
    """It never gets as far as a SQLSTATE."""
    async with db.read() as read:
        with pytest.raises(Unexpected):
            await read.execute(text("SELECT CAST(:value AS bigint)"), {"value": 2**63})


def test_every_error_says_in_a_sentence_what_was_refused() -> None:
    made = {
        errors.NotFound("user", 7): "user 7 does not exist",
        errors.AlreadyExists("user", "email"): "a user with this email already exists",
        errors.Stale("user", 7): "user 7 has changed since it was read",
    }
    for error, sentence in made.items():
        assert str(error) == sentence
