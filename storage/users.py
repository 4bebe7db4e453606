"""All SQL about users."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sqlalchemy import Select, bindparam, exists, func, insert, not_, select
from sqlalchemy import delete as sql_delete
from sqlalchemy import update as sql_update

from storage import keyset
from storage.casefold import fold
from storage.dialects.at_once import in_time
from storage.dialects.rows import ChangeOne, named, new_values
from storage.dialects.search import Way, containing, in_no_order, search
from storage.dialects.sql import (
    changed_at,
    is_looked_up,
    is_one_of_any_length,
    literal,
    moment_after,
    planned_for_its_values,
)
from storage.errors import Contention, NotFound, Stale
from storage.making import maker
from storage.models import Post, Profile, Role, User
from storage.moments import EPOCH, Moment
from storage.profiles import ProfileRow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import CTE, ColumnElement
    from sqlalchemy.orm import InstrumentedAttribute

    from storage.database import Transaction
    from storage.sessions import Session


class UserRow(NamedTuple):
    """A user as the basic view shows them, and the profile where a view loads it."""

    id: int
    email: str
    username: str
    full_name: str | None
    role: Role
    is_active: bool
    created_at: Moment
    updated_at: Moment
    profile: ProfileRow | None = None


class Key(NamedTuple):
    """One way to name a single user. Emails and usernames match without regard to case."""

    field: Literal["id", "email", "username"]
    value: int | str


class Filter(NamedTuple):
    """Conditions that must all hold; None and "" stand for no condition.

    Args:
        is_active: active users only, or inactive users only.
        role: users of this role only.
        query: a substring of the username or the email, without regard to case.
        created_after: users created after this moment, not at it.
        created_before: users created before this moment, not at it.
        has_published: users with at least one published post only.
    """

    is_active: bool | None = None
    role: Role | None = None
    query: str = ""
    created_after: Moment | None = None
    created_before: Moment | None = None
    has_published: bool = False

    @property
    def shape(self) -> Filter:
        """What it has in common with all filters that the same conditions are for."""
        return self._replace(
            query="",
            created_after=self.created_after and EPOCH,
            created_before=self.created_before and EPOCH,
        )

    @property
    def parameters(self) -> dict[str, Moment]:
        """What the conditions are told of this one, but for the query."""
        bounds = {"created_after": self.created_after, "created_before": self.created_before}
        return {name: moment for name, moment in bounds.items() if moment is not None}


class NewUser(NamedTuple):
    """What a user is made of."""

    email: str
    username: str
    password_hash: str
    full_name: str | None = None
    role: Role = Role.USER


class Credentials(NamedTuple):
    """A user and the hash that their password is checked against."""

    user: UserRow
    password_hash: str


# What `UserRow` is made of, for others who join users.
COLUMNS = (
    User.id,
    User.email,
    User.username,
    User.full_name,
    User.role,
    User.is_active,
    User.created_at,
    User.updated_at,
)
# Makes it of these, and of the profile or None.
made_of = maker(UserRow)
_PROFILE_COLUMNS = (Profile.bio, Profile.avatar_url, Profile.updated_at)

_BASIC: Select[*tuple[Any, ...]] = select(*COLUMNS)
_WITH_PROFILE: Select[*tuple[Any, ...]] = select(*COLUMNS, *_PROFILE_COLUMNS).outerjoin(Profile)
_WITH_HASH: Select[*tuple[Any, ...]] = select(*COLUMNS, User.password_hash)

_SEARCHED = (User.username_key, User.email_key)
_FOLDED = {"email": "email_key", "username": "username_key"}
_KEY_COLUMNS = {"id": User.id, "email": User.email_key, "username": User.username_key}
_INSERT = insert(User).returning(*COLUMNS)
_KEEP = _BASIC.where(User.id == bindparam("user_id")).with_for_update(read=True, key_share=True)

_PLANNED_FOR_ITS_VALUES = planned_for_its_values(User)

# What each field that can be ordered by is in SQL, and how it is read off a row.
_ORDER_COLUMNS: Mapping[str, InstrumentedAttribute[Any]] = {
    "id": User.id,
    "created_at": User.created_at,
    "username": User.username_key,
}
_ORDER_VALUES = {
    "id": lambda row: row.id,
    "created_at": lambda row: row.created_at,
    "username": lambda row: fold(row.username),
}


async def create(tx: Transaction, new: NewUser) -> UserRow:
    """Adds a user.

    Raises:
        AlreadyExists: when the email or the username is taken.
    """
    values = {**new._asdict(), "email_key": fold(new.email), "username_key": fold(new.username)}
    return _to_basic((await tx.execute(_INSERT, values)).one())


async def get(read: Session, key: Key, *, profile: bool = False) -> UserRow:
    """Returns one user, with the profile if asked.

    Raises:
        NotFound: when there is none.
    """
    found = await _load(read, _find(key.field, profile=profile), _named(key), profile=profile)
    if not found:
        raise NotFound("user", key.value)
    return found[0]


async def get_for_key_share(tx: Transaction, user_id: int) -> UserRow:
    """Returns one user, who cannot be deleted while the transaction lasts.

    Raises:
        NotFound: when there is none.
    """
    row = (await tx.execute(_KEEP, {"user_id": user_id})).one_or_none()
    if row is None:
        raise NotFound("user", user_id)
    return _to_basic(row)


def locked_now(user_id: ColumnElement[int]) -> CTE:
    """PostgreSQL: one user's `COLUMNS`, who is locked against deletion if nobody is at that."""
    is_it = _BASIC.where(User.id == user_id, in_time())
    return is_it.with_for_update(read=True, key_share=True, skip_locked=True).cte("locked")


async def batch_get(
    read: Session, ids: Sequence[int], *, profile: bool = False
) -> dict[int, UserRow]:
    """Returns those of the users that there are, by id."""
    rows = await _load(read, _find_all(profile=profile), {"ids": ids}, profile=profile)
    return {row.id: row for row in rows}


async def list_page(
    read: Session, where: Filter, window: keyset.Window, *, profile: bool = False
) -> keyset.Page[UserRow]:
    """Returns a page of the users that match: one statement.

    A search is one more on SQLite, and once a minute on PostgreSQL.

    Args:
        read: where to read.
        where: which users.
        window: which page, ordered by `id`, `created_at` or `username`: usernames by the code
            points of their folded form.
        profile: loads the profiles too.
    """
    found = await search(read, _SEARCHED, fold(where.query))
    statement = _page(where.shape, found.way, window.shape, profile=profile)
    parameters = {**where.parameters, **found.parameters, **window.parameters}
    rows = await _load(read, statement, parameters, profile=profile)
    return keyset.page(rows, window, _ORDER_VALUES)


async def count(read: Session, where: Filter) -> int:
    """Returns how many users match."""
    found = await search(read, _SEARCHED, fold(where.query))
    matching = select(func.count()).select_from(User).where(*_conditions(where, found.way))
    parameters = {**where.parameters, **found.parameters}
    total: int = (await read.execute(matching, parameters)).scalar_one()
    return total


async def update(
    tx: Transaction,
    user_id: int,
    changes: Mapping[str, object],
    *,
    unchanged_since: Moment | None = None,
) -> UserRow:
    """Changes a user. `updated_at` moves only if a value differs from what it was.

    Args:
        tx: the transaction.
        user_id: whom.
        changes: new values of `email`, `username`, `full_name`, `role` or `is_active`.
        unchanged_since: when set, must be the user's current `updated_at`.

    Raises:
        NotFound: when there is no such user.
        Stale: when the user has changed since `unchanged_since`.
        AlreadyExists: when the email or the username is taken.
    """
    keys = {_FOLDED[name]: fold(str(changes[name])) for name in _FOLDED if name in changes}
    change = _change(tuple(sorted(changes)), conditional=unchanged_since is not None)
    told = {"key": user_id, "since": unchanged_since, **named({**changes, **keys})}
    row = await change.execute(tx, told)
    if row is None:
        raise await _why_missed(tx, user_id, unchanged_since)
    return _to_basic(row)


async def delete(tx: Transaction, user_id: int, *, unchanged_since: Moment | None = None) -> None:
    """Removes a user and, by the database's cascade, what belongs to them.

    Raises:
        NotFound: when there is no such user.
        Stale: when the user has changed since `unchanged_since`.
    """
    statement = sql_delete(User).where(*_unchanged(user_id, unchanged_since))
    if (await tx.execute(statement)).rowcount == 0:
        raise await _why_missed(tx, user_id, unchanged_since)


async def deactivate(tx: Transaction, where: Filter) -> int:
    """Makes the matching users inactive and returns how many there were."""
    found = await search(tx, _SEARCHED, fold(where.query))
    statement = (
        sql_update(User)
        .where(User.id.in_(_locked(where, found.way)))
        .values({User.is_active: False, User.updated_at: moment_after(User.updated_at)})
    )
    return (await tx.execute(statement, {**where.parameters, **found.parameters})).rowcount


async def purge(tx: Transaction, where: Filter) -> int:
    """Removes the matching users and returns how many there were."""
    found = await search(tx, _SEARCHED, fold(where.query))
    statement = sql_delete(User).where(User.id.in_(_locked(where, found.way)))
    return (await tx.execute(statement, {**where.parameters, **found.parameters})).rowcount


async def get_credentials(read: Session, key: Key) -> Credentials | None:
    """Returns a user and their password hash, or None when there is no such user."""
    statement = _WITH_HASH.where(_is(key.field))
    row = (await read.execute(statement, _named(key))).one_or_none()
    return None if row is None else Credentials(_to_basic(row[:-1]), row[-1])


async def change_password(tx: Transaction, user_id: int, old_hash: str, new_hash: str) -> None:
    """Replaces a password hash.

    Raises:
        Contention: when the hash is not `old_hash` any more.
    """
    statement = (
        sql_update(User)
        .where(User.id == user_id, User.password_hash == old_hash)
        .values({User.password_hash: new_hash, User.updated_at: moment_after(User.updated_at)})
    )
    if (await tx.execute(statement)).rowcount == 0:
        raise Contention("the password was changed at the same time")


async def rehash_password(tx: Transaction, user_id: int, old_hash: str, new_hash: str) -> None:
    """Replaces the hash of a password that stays the same, unless it has changed meanwhile."""
    await tx.execute(
        sql_update(User)
        .where(User.id == user_id, User.password_hash == old_hash)
        .values({User.password_hash: new_hash})
    )


async def _load(
    read: Session,
    statement: Select[*tuple[Any, ...]],
    parameters: Mapping[str, Any],
    *,
    profile: bool,
) -> list[UserRow]:
    """Reads users, with their profiles or without."""
    selected = (await read.execute(statement, parameters)).all()
    return list(map(_to_profiled if profile else _to_basic, selected))


@cache
def _find(field: str, *, profile: bool) -> Select[*tuple[Any, ...]]:
    """Selects the user with a key."""
    return (_WITH_PROFILE if profile else _BASIC).where(_is(field))


@cache
def _find_all(*, profile: bool) -> Select[*tuple[Any, ...]]:
    """Selects the users with some ids."""
    return (_WITH_PROFILE if profile else _BASIC).where(is_one_of_any_length(User.id, "ids"))


@lru_cache(keyset.SHAPES)
def _page(
    where: Filter, way: Way, window: keyset.Window, *, profile: bool
) -> Select[*tuple[Any, ...]]:
    """Selects a page of the users that match.

    The profiles are joined to the rows of the page: none is read for a row that is not on it.
    """
    matching, within = _BASIC.where(*_conditions(where, way)), in_no_order(_SEARCHED, way)
    page = keyset.paged(matching, window, _ORDER_COLUMNS, within=within)
    if not profile:
        return page
    users = page.add_columns(User.username_key).subquery()
    order = {field: users.c[column.key] for field, column in _ORDER_COLUMNS.items()}
    return (
        select(*(users.c[column.key] for column in COLUMNS), *_PROFILE_COLUMNS)
        .outerjoin_from(users, Profile, Profile.user_id == users.c.id)
        .order_by(*keyset.order_by(window.order, order))
    )


@cache
def _change(fields: tuple[str, ...], *, conditional: bool) -> ChangeOne:
    """Gives fields of a user new values."""
    values = new_values(User, fields)
    stamp = changed_at(User.updated_at, values)
    values |= new_values(User, [_FOLDED[name] for name in _FOLDED if name in fields])
    statement = sql_update(User).where(User.id == bindparam("key"))
    if conditional:
        statement = statement.where(User.updated_at == bindparam("since"))
    return ChangeOne(statement.values({**values, User.updated_at: stamp}), COLUMNS, User.id)


def _to_basic(row: Sequence[Any]) -> UserRow:
    """Reads a row of `COLUMNS`."""
    return made_of((*row, None))


def _to_profiled(row: Sequence[Any]) -> UserRow:
    """Reads a row of `COLUMNS` and `_PROFILE_COLUMNS`."""
    *basic, bio, avatar_url, updated_at = row
    profile = None if updated_at is None else ProfileRow(row[0], bio, avatar_url, updated_at)
    return made_of((*basic, profile))


def _is(field: str) -> ColumnElement[bool]:
    return _KEY_COLUMNS[field] == bindparam("key")


def _named(key: Key) -> dict[str, int | str]:
    return {"key": key.value if key.field == "id" else fold(str(key.value))}


def _conditions(where: Filter, way: Way) -> list[ColumnElement[bool]]:
    conditions = containing(_SEARCHED, way)
    if where.is_active is not None:
        # As the predicate of the partial index is written: `IS false` would not be taken for it.
        active = User.is_active.expression
        conditions.append(active if where.is_active else not_(active))
    if where.role is not None:
        conditions.append(User.role == literal(where.role))
    if where.created_after is not None:
        conditions.append(User.created_at > bindparam("created_after"))
    if where.created_before is not None:
        conditions.append(User.created_at < bindparam("created_before"))
    if where.has_published:
        published = exists().where(is_looked_up(Post.author_id, User.id), Post.published.expression)
        conditions.append(published.correlate(User))
    if way is not Way.ALL or where.parameters:
        conditions.append(_PLANNED_FOR_ITS_VALUES)
    return conditions


def _locked(where: Filter, way: Way) -> Select[*tuple[Any, ...]]:
    """The ids of the matching users, locked in id order so that two of these never deadlock."""
    ids = select(User.id).where(*_conditions(where, way)).order_by(User.id)
    return ids.with_for_update(key_share=True)


def _unchanged(user_id: int, since: Moment | None) -> list[ColumnElement[bool]]:
    conditions = [User.id == user_id]
    if since is not None:
        conditions.append(User.updated_at == since)
    return conditions


async def _why_missed(tx: Transaction, user_id: int, since: Moment | None) -> NotFound | Stale:
    """Tells why no row matched `_unchanged`."""
    if since is None:
        # A row that is there by this time came after it was looked for.
        return NotFound("user", user_id)
    found = (await tx.execute(select(User.id).where(User.id == user_id))).one_or_none()
    return NotFound("user", user_id) if found is None else Stale("user", user_id)
