"""What a transaction commonly does, as one statement, where the database can say it so.

A round trip costs more than what most statements do. What is not as it commonly is, is left to be
done step by step, which tells why, and waits for whoever is in the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import String, bindparam, func, literal_column, true

from storage.dialects.postgresql import LOCK_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import ColumnElement, Executable

    from storage.database import Transaction
    from storage.moments import Moment


class AtOnce:
    """All of a transaction, by itself, on PostgreSQL.

    Never within a transaction: the locks of one that does nothing would be kept there, and they are
    not taken in the order in which the steps take theirs.

    Args:
        statement: that answers with rows if it has done everything, and else has done nothing. It
            is told `in_time` before it waits for a lock.
    """

    def __init__(self, statement: Executable) -> None:
        self._statement = statement

    async def execute(self, tx: Transaction, parameters: Mapping[str, Any]) -> Sequence[Any] | None:
        """Does it, and returns the rows: none if it did nothing, None if it may not go by itself.

        Raises:
            StorageError: as for any statement.
        """
        driver = tx.alone
        if driver is None:
            return None
        told = {**parameters, LOCK_TIMEOUT: driver.lock_timeout}
        return await tx.at_once(self._statement, told)


def in_time() -> ColumnElement[bool]:
    """A condition that holds, and bounds the waits for locks that follow it by the deadline."""
    told = bindparam(LOCK_TIMEOUT, type_=String)
    return func.set_config(literal_column(f"'{LOCK_TIMEOUT}'"), told, true()).is_not(None)


def moment_by_then() -> ColumnElement[Moment]:
    """The moment at which the database comes to it: after others whose locks were there before."""
    return func.clock_timestamp()
