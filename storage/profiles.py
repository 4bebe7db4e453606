"""All SQL about profiles."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import bindparam, insert, literal, select
from sqlalchemy import delete as sql_delete
from sqlalchemy import update as sql_update

from storage.dialects.rows import ChangeOne, adding_missing, named, new_values
from storage.dialects.sql import changed_at
from storage.errors import NotFound, Stale
from storage.models import Profile, User
from storage.moments import Moment  # noqa: TC001 - NamedTuple keeps the annotations

if TYPE_CHECKING:
    from collections.abc import Mapping

    from storage.database import Transaction
    from storage.sessions import Session


class ProfileRow(NamedTuple):
    """A profile."""

    user_id: int
    bio: str
    avatar_url: str
    updated_at: Moment


_COLUMNS = (Profile.user_id, Profile.bio, Profile.avatar_url, Profile.updated_at)
_SELECT = select(*_COLUMNS).where(Profile.user_id == bindparam("user_id"))
_INSERT = insert(Profile).returning(*_COLUMNS)


async def get(read: Session, user_id: int) -> ProfileRow:
    """Returns a user's profile.

    Raises:
        NotFound: when the user does not exist or has none.
    """
    row = (await read.execute(_SELECT, {"user_id": user_id})).one_or_none()
    if row is None:
        raise NotFound("profile", user_id)
    return ProfileRow._make(row)


async def create(tx: Transaction, user_id: int, bio: str, avatar_url: str) -> ProfileRow:
    """Adds the profile of a user who was made in the same transaction."""
    values = {"user_id": user_id, "bio": bio, "avatar_url": avatar_url}
    return ProfileRow._make((await tx.execute(_INSERT, values)).one())


async def update(
    tx: Transaction,
    user_id: int,
    changes: Mapping[str, object],
    *,
    unchanged_since: Moment | None = None,
) -> ProfileRow:
    """Changes a profile. `updated_at` moves only if a value differs from what it was.

    Args:
        tx: the transaction.
        user_id: whose profile.
        changes: new values of `bio` or `avatar_url`.
        unchanged_since: when set, must be the profile's current `updated_at`.

    Raises:
        NotFound: when the user does not exist or has no profile.
        Stale: when the profile has changed since `unchanged_since`.
    """
    change = _change(tuple(sorted(changes)), conditional=unchanged_since is not None)
    row = await change.execute(tx, {"key": user_id, "since": unchanged_since, **named(changes)})
    if row is not None:
        return ProfileRow._make(row)
    await get(tx, user_id)
    raise Stale("profile", user_id)


async def update_or_create(
    tx: Transaction,
    user_id: int,
    changes: Mapping[str, object],
    *,
    unchanged_since: Moment | None = None,
) -> ProfileRow:
    """Changes a profile as `update` does, or makes it, empty but for the changes.

    Raises:
        NotFound: when the user does not exist, or an `unchanged_since` is set and there is no
            profile that it could be of.
        Stale: when the profile has changed since `unchanged_since`.
    """
    if unchanged_since is not None:
        return await update(tx, user_id, changes, unchanged_since=unchanged_since)
    values = {"bio": "", "avatar_url": "", **changes}
    # Selecting from users, and locking there, makes an unknown user no row instead of an error.
    source = (
        select(User.id, literal(values["bio"]), literal(values["avatar_url"]))
        .where(User.id == user_id)
        .with_for_update(key_share=True, read=True)
    )
    adding = adding_missing(Profile).from_select(["user_id", "bio", "avatar_url"], source)
    # Once more if a profile is removed between its being there already and its being changed.
    while True:
        made = (await tx.execute(adding.returning(*_COLUMNS))).one_or_none()
        if made is not None:
            return ProfileRow._make(made)
        with suppress(NotFound):
            return await update(tx, user_id, changes)
        known = await tx.execute(select(User.id).where(User.id == user_id))
        if known.one_or_none() is None:
            raise NotFound("user", user_id)


async def delete(tx: Transaction, user_id: int) -> None:
    """Removes a user's profile.

    Raises:
        NotFound: when the user does not exist or has none.
    """
    statement = sql_delete(Profile).where(Profile.user_id == user_id)
    if (await tx.execute(statement)).rowcount == 0:
        raise NotFound("profile", user_id)


@cache
def _change(fields: tuple[str, ...], *, conditional: bool) -> ChangeOne:
    """Gives fields of a profile new values."""
    values = new_values(Profile, fields)
    statement = sql_update(Profile).where(Profile.user_id == bindparam("key"))
    if conditional:
        statement = statement.where(Profile.updated_at == bindparam("since"))
    stamp = changed_at(Profile.updated_at, values)
    changed = statement.values({**values, Profile.updated_at: stamp})
    return ChangeOne(changed, _COLUMNS, Profile.user_id)
