"""All SQL about requests that were answered: a call that is sent again gets the same answer."""

from __future__ import annotations

from datetime import timedelta  # noqa: TC003 - NamedTuple keeps the annotations
from secrets import token_bytes
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID  # noqa: TC003 - NamedTuple keeps the annotations

from sqlalchemy import func, select
from sqlalchemy import update as sql_update

from storage.dialects import delete_batch, insert_if_missing
from storage.models import Request, RequestKey

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import ColumnElement

    from storage.database import Session, Transaction

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


class AlreadyAnswered(Exception):
    """The call was answered before: it is not to be served again, and its work ends here.

    No error of storage, and nothing for a servicer to catch.
    """

    def __init__(self, found: Answered) -> None:
        super().__init__("the request was answered before")
        self.found = found


async def find(read: Session, key: Key) -> Answered | None:
    """Returns what a call was answered, or None when no call of this key took effect."""
    statement = select(Request.digests, Request.answer).where(*_is(key))
    row = (await read.execute(statement)).one_or_none()
    return row and Answered(row.digests, row.answer)


async def claim(tx: Transaction, key: Key, digests: Mapping[str, str]) -> None:
    """Takes the key for this transaction, whose answer `keep` is to add before it commits.

    Waits for a transaction that has taken the same key.

    Raises:
        AlreadyAnswered: when that one, or an earlier one, has committed.
        LockTimeout: when it takes too long to.
    """
    values = {
        Request.caller: key.caller,
        Request.method: key.method,
        Request.request_id: key.request_id,
        Request.digests: digests,
    }
    # Once more if the answer is purged between its being there already and its being read.
    while (await tx.execute(insert_if_missing(Request, values))).rowcount == 0:
        found = await find(tx, key)
        if found is not None:
            raise AlreadyAnswered(found)


async def keep(tx: Transaction, key: Key, answer: bytes) -> None:
    """Adds the answer to the key that this transaction has claimed."""
    await tx.execute(sql_update(Request).where(*_is(key)).values({Request.answer: answer}))


async def purge(tx: Transaction, retention: timedelta) -> int:
    """Removes the oldest requests that are older than this, 1,000 at most, and returns how many.

    Passes over those that another purge is removing.
    """
    is_old = Request.created_at < func.now() - retention
    return (await tx.execute(delete_batch(Request, is_old, Request.created_at, BATCH))).rowcount


async def shared_key(tx: Transaction) -> bytes:
    """Returns the secret that all servers on this database share, made by the first who asks."""
    statement = select(RequestKey.secret)
    secret: bytes | None = (await tx.execute(statement)).scalar_one_or_none()
    if secret is not None:
        return secret
    values = {RequestKey.id: _THE_KEY, RequestKey.secret: token_bytes(KEY_BYTES)}
    await tx.execute(insert_if_missing(RequestKey, values))
    made: bytes = (await tx.execute(statement)).scalar_one()
    return made


def _is(key: Key) -> tuple[ColumnElement[bool], ...]:
    return (
        Request.request_id == key.request_id,
        Request.method == key.method,
        Request.caller == key.caller,
    )
