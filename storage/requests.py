"""All SQL about requests that were answered: a call that is sent again gets the same answer."""

from __future__ import annotations

from contextvars import ContextVar
from datetime import timedelta  # noqa: TC003 - NamedTuple keeps the annotations
from secrets import token_bytes
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID  # noqa: TC003 - NamedTuple keeps the annotations

from sqlalchemy import select

from storage.dialects.rows import delete_rows, insert_missing, update_rows
from storage.dialects.sql import delete_batch, moment_before
from storage.models import Request, RequestKey

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from sqlalchemy import ColumnElement

    from storage.database import Transaction
    from storage.sessions import Session

# Rows that one transaction of `purge` deletes at most.
BATCH = 1000
KEY_BYTES = 32
_THE_KEY = 1


class Key(NamedTuple):
    """What makes two calls the same one.

    Args:
        caller: who calls; empty where nobody has to say.
        method: which RPC.
        request_id: the caller's name for the call.
    """

    caller: str
    method: str
    request_id: UUID


class Answered(NamedTuple):
    """A request that was answered.

    Args:
        digests: of its fields, by path.
        answer: the serialized response.
    """

    digests: Mapping[str, str]
    answer: bytes


class Claim(NamedTuple):
    """A call that is to take effect once.

    Args:
        key: what makes it the same call as another.
        digests: of its fields, by path.
    """

    key: Key
    digests: Mapping[str, str]


class AlreadyAnswered(Exception):
    """The call was answered before: it is not to be served again, and its work ends here.

    No error of storage, and nothing for a servicer to catch.
    """

    def __init__(self, found: Answered) -> None:
        super().__init__("the request was answered before")
        self.found = found


# The claim of the call that is being served, if it carries a request id.
claim_of_call: ContextVar[Claim | None] = ContextVar("claim_of_call", default=None)

_KEY = (Request.caller, Request.method, Request.request_id)


async def find(read: Session, key: Key) -> Answered | None:
    """Returns what a call was answered, or None when no call of this key took effect."""
    statement = select(Request.digests, Request.answer).where(*_is(key))
    row = (await read.execute(statement)).one_or_none()
    return row and Answered(row.digests, row.answer)


async def claim(tx: Transaction, wanted: Claim) -> None:
    """Takes the key for this transaction, whose answer `keep` is to add before it commits.

    Waits for a transaction that has taken the same key.

    Raises:
        AlreadyAnswered: when that one, or an earlier one, has committed.
        LockTimeout: when it takes too long to.
    """
    answered = await claim_all(tx, [wanted])
    if answered:
        raise AlreadyAnswered(answered[wanted.key])


async def claim_all(tx: Transaction, wanted: Iterable[Claim]) -> dict[Key, Answered]:
    """Takes keys for this transaction, as `claim` does, and returns those that were answered."""
    answered: dict[Key, Answered] = {}
    # In one order, so that two of these never wait for each other.
    open_ones = {each.key: each.digests for each in sorted(wanted, key=lambda each: each.key)}
    while open_ones:
        columns: dict[Any, list[Any]] = {
            Request.caller: [key.caller for key in open_ones],
            Request.method: [key.method for key in open_ones],
            Request.request_id: [key.request_id for key in open_ones],
            Request.digests: list(open_ones.values()),
        }
        taken = await insert_missing(tx, Request, columns, _KEY)
        for row in taken:
            del open_ones[Key(row.caller, row.method, row.request_id)]
        # Once more if an answer is purged between its being there already and its being read.
        for key in list(open_ones):
            found = await find(tx, key)
            if found is not None:
                answered[key] = found
                del open_ones[key]
    return answered


async def keep(tx: Transaction, key: Key, answer: bytes) -> None:
    """Adds the answer to the key that this transaction has claimed."""
    await keep_all(tx, {key: answer})


async def keep_all(tx: Transaction, answers: Mapping[Key, bytes]) -> None:
    """Adds the answers to the keys that this transaction has claimed."""
    await update_rows(tx, Request, _columns(answers), {Request.answer: list(answers.values())})


async def yield_all(tx: Transaction, keys: Collection[Key]) -> None:
    """Gives up keys that this transaction has claimed."""
    await delete_rows(tx, Request, _columns(keys))


async def purge(tx: Transaction, retention: timedelta) -> int:
    """Removes the oldest requests that are older than this, 1,000 at most, and returns how many.

    Passes over those that another purge is removing.
    """
    is_old = Request.created_at < moment_before(retention)
    statement = delete_batch(tx.dialect, Request, is_old, Request.created_at, BATCH)
    return (await tx.execute(statement)).rowcount


async def shared_key(tx: Transaction) -> bytes:
    """Returns the secret that all servers on this database share, made by the first who asks."""
    statement = select(RequestKey.secret)
    secret: bytes | None = (await tx.execute(statement)).scalar_one_or_none()
    if secret is not None:
        return secret
    row: dict[Any, list[Any]] = {
        RequestKey.id: [_THE_KEY],
        RequestKey.secret: [token_bytes(KEY_BYTES)],
    }
    await insert_missing(tx, RequestKey, row)
    made: bytes = (await tx.execute(statement)).scalar_one()
    return made


def _columns(keys: Collection[Key]) -> dict[Any, list[Any]]:
    """Returns the columns that the keys are in, with the values of each."""
    return {column: [getattr(key, column.key) for key in keys] for column in _KEY}


def _is(key: Key) -> tuple[ColumnElement[bool], ...]:
    return (
        Request.request_id == key.request_id,
        Request.method == key.method,
        Request.caller == key.caller,
    )
