"""SQL about users."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, text, update

from storage import profiles, users
from storage.casefold import fold
from storage.errors import AlreadyExists, Contention, NotFound, Stale
from storage.keyset import Cursor, Order, Window
from storage.models import Role, User
from storage.moments import Moment, moment_of
from storage.users import Filter, Key, UserRow
from tests import factories
from tests.differences import Difference, differs
from tests.onlookers import locked_user, until_waiting_for_a_lock
from tests.statements import run, sent_by, set_moments

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from storage.database import Database

ORDERS = [
    Order(name, descending=descending)
    for name in ("id", "created_at", "username")
    for descending in (False, True)
]
VALUES: dict[str, Callable[[UserRow], Any]] = {
    "id": lambda user: user.id,
    "created_at": lambda user: user.created_at,
    "username": lambda user: fold(user.username),
}
FAR_FUTURE = moment_of(datetime(2999, 12, 31, tzinfo=UTC))
MAY = moment_of(datetime(2024, 5, 1, tzinfo=UTC))

# The same name twice, and two names, however alike they look.
SAME = [
    pytest.param("ada", "ADA", id="ascii"),
    pytest.param("Zo\u00eb", "ZOE\u0308", id="composed and decomposed"),
    pytest.param("Stra\u00dfe", "STRASSE", id="sharp s"),
    pytest.param("\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2", "σίσυφοσ", id="final sigma"),
    pytest.param("I", "i", id="i without regard to locale"),
    pytest.param("\ufb03x", "FFIx", id="ligature"),
    pytest.param("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680", id="emoji"),
]
DIFFERENT = [
    pytest.param("ada", "ada ", id="space"),
    pytest.param("e", "\u00e9", id="accent"),
    pytest.param("i", "\u0131", id="dotless i"),
    pytest.param("i", "\u0130", id="dotted capital I"),
    pytest.param("\U0001f44d", "\U0001f44d\U0001f3fd", id="skin tone"),
    pytest.param("ada", "\u0430da", id="cyrillic"),
]


async def get(db: Database, user_id: int, *, profile: bool = False) -> UserRow:
    async with db.read() as read:
        return await users.get(read, Key("id", user_id), profile=profile)


async def change(db: Database, user: UserRow, **changes: object) -> UserRow:
    async with db.transaction() as tx:
        return await users.update(tx, user.id, changes)


async def set_created_at(db: Database, user_id: int, moment: Moment) -> None:
    async with db.transaction() as tx:
        await tx.execute(update(User).where(User.id == user_id).values(created_at=moment))


async def all_pages(
    db: Database, order: Order, *, where: Filter | None = None, limit: int = 3
) -> AsyncIterator[list[UserRow]]:
    """Follows a list from its first page to its last."""
    after: Cursor | None = None
    while True:
        async with db.read() as read:
            page = await users.list_page(read, where or Filter(), Window(order, after, limit))
        assert len(page.rows) == limit or page.next is None
        assert page.next is None or page.next != after
        yield list(page.rows)
        after = page.next
        if after is None:
            return


async def listed(
    db: Database, order: Order, *, where: Filter | None = None, limit: int = 3
) -> list[UserRow]:
    return [row async for page in all_pages(db, order, where=where, limit=limit) for row in page]


def in_order(rows: Iterable[UserRow], order: Order) -> list[UserRow]:
    return sorted(rows, key=partial(position, order), reverse=order.descending)


def position(order: Order, user: UserRow) -> Cursor:
    return Cursor(VALUES[order.field](user), user.id)


# create


async def test_a_new_user_is_active_an_ordinary_user_and_without_profile(db: Database) -> None:
    made = await factories.add_user(db, email="Ada@Example.com", username="Ada")
    assert (made.email, made.username, made.full_name) == ("Ada@Example.com", "Ada", None)
    assert (made.role, made.is_active, made.profile) == (Role.USER, True, None)
    assert made.updated_at == made.created_at
    assert made == await get(db, made.id, profile=True)


@pytest.mark.parametrize("role", Role)
async def test_a_user_is_made_with_what_is_given(db: Database, role: Role) -> None:
    made = await factories.add_user(db, full_name="Ada Lovelace 🧮", role=role)
    found = await get(db, made.id)
    assert (found.full_name, found.role) == ("Ada Lovelace 🧮", role)


@pytest.mark.parametrize("field", ["email", "username"])
@pytest.mark.parametrize(("first", "second"), SAME)
async def test_a_name_is_unique_without_regard_to_case(
    db: Database, field: str, first: str, second: str
) -> None:
    await factories.add_user(db, **{field: first})
    with pytest.raises(AlreadyExists) as refused:
        await factories.add_user(db, **{field: second})
    assert (refused.value.resource, refused.value.field) == ("user", field)


@pytest.mark.parametrize("field", ["email", "username"])
@pytest.mark.parametrize(("first", "second"), DIFFERENT)
async def test_names_that_differ_by_more_than_case_are_two(
    db: Database, field: str, first: str, second: str
) -> None:
    await factories.add_user(db, **{field: first})
    await factories.add_user(db, **{field: second})


@pytest.mark.parametrize(("given", "_"), SAME)
async def test_a_name_is_kept_as_given(db: Database, given: str, _: str) -> None:
    made = await factories.add_user(db, username=given, email=given)
    assert (made.username, made.email) == (given, given)


@pytest.mark.parametrize("letter", ["a", "\u0390", "\U0001f9ee", "\U0001d160"])
async def test_the_longest_names_fit_however_long_they_are_when_folded(
    db: Database, letter: str
) -> None:
    made = await factories.add_user(db, username=letter * 50, email=letter * 255)
    async with db.read() as read:
        assert await users.get(read, Key("email", letter * 255)) == made


async def test_of_two_who_race_for_a_name_one_gets_it(db: Database) -> None:
    # Nobody has had the name. Where a row with it was deleted, and not yet purged, MariaDB's racers
    # share a lock on that and may deadlock instead.
    names = ["lone", "Lone", "loNe", "lonE"] * 3
    racing = (factories.add_user(db, username=name) for name in names)
    outcomes = await asyncio.gather(*racing, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, AlreadyExists)]
    assert len(refused) == len(outcomes) - 1
    assert {refusal.field for refusal in refused} == {"username"}


async def test_a_user_who_was_not_made_leaves_nothing_behind(db: Database) -> None:
    await factories.add_user(db, username="ada")
    with pytest.raises(AlreadyExists):
        await factories.add_user(db, username="ADA", email="free@example.com")
    await factories.add_user(db, email="free@example.com")


# get and batch_get


@pytest.mark.parametrize(
    "key",
    [
        Key("email", "zoe\u0308@EXAMPLE.com"),
        Key("email", "Zo\u00eb@example.com"),
        Key("username", "STRASSE"),
        Key("username", "stra\u00dfe"),
    ],
)
async def test_a_user_is_found_by_a_name_in_any_case(db: Database, key: Key) -> None:
    made = await factories.add_user(db, email="Zo\u00eb@example.com", username="Stra\u00dfe")
    await factories.add_user(db)
    async with db.read() as read:
        assert await users.get(read, key) == made


@pytest.mark.parametrize(
    "key",
    [
        Key("id", 2**63 - 1),
        Key("id", 0),
        Key("id", -1),
        Key("email", "nobody@example.com"),
        Key("username", "user%"),
    ],
)
async def test_an_unknown_key_is_not_found_and_named_as_given(db: Database, key: Key) -> None:
    await factories.add_user(db)
    async with db.read() as read:
        with pytest.raises(NotFound) as missed:
            await users.get(read, key)
    assert (missed.value.resource, missed.value.name) == ("user", str(key.value))


async def test_the_profile_is_loaded_only_when_asked_for(db: Database) -> None:
    made = await factories.add_user(db)
    profile = await factories.add_profile(db, made.id)
    assert (await get(db, made.id)).profile is None
    assert (await get(db, made.id, profile=True)).profile == profile


async def test_a_batch_holds_those_users_that_there_are(db: Database) -> None:
    ada, bob, _ = await factories.add_users(db, 3)
    profile = await factories.add_profile(db, ada.id)
    asked = [bob.id, ada.id, 2**62, ada.id, -5]
    async with db.read() as read:
        assert await users.batch_get(read, asked) == {ada.id: ada, bob.id: bob}
        found = await users.batch_get(read, asked, profile=True)
        assert await users.batch_get(read, []) == {}
    assert found == {ada.id: ada._replace(profile=profile), bob.id: bob}


@pytest.mark.parametrize("profile", [False, True], ids=["basic", "profile"])
async def test_the_number_of_statements_does_not_depend_on_the_number_of_rows(
    db: Database, *, profile: bool
) -> None:
    made = await factories.add_users(db, 1000)
    await run(db, "INSERT INTO profiles (user_id, bio, avatar_url) SELECT id, '', '' FROM users")
    ids = [user.id for user in made]
    window = Window(Order("id"), None, 1)
    async with db.read() as read:
        # The driver asks about the type of an array when a connection first sends one.
        await users.batch_get(read, ids)
    for rows in (1, 10, 1000):
        async with sent_by(db) as sent, db.read() as read:
            await users.get(read, Key("id", ids[0]), profile=profile)
            found = await users.batch_get(read, ids[:rows], profile=profile)
            page = await users.list_page(
                read, Filter(), window._replace(limit=rows), profile=profile
            )
        assert (len(found), len(page.rows)) == (rows, rows)
        assert all((row.profile is not None) == profile for row in page.rows)
        assert (len(sent.statements), sent.frames) == (3, [])


# list_page and count


async def test_filters_hold_alone_and_in_every_combination(db: Database) -> None:
    roles, states, names = (Role.USER, Role.ADMIN, Role.MODERATOR), (True, False), ("Ann", "Bo")
    for number, (role, active, name) in enumerate(itertools.product(roles, states, names)):
        user = await factories.add_user(db, role=role, username=f"{name}{number}")
        await change(db, user, is_active=active)
    everybody = await listed(db, Order("id"), limit=100)
    moments = (None, everybody[3].created_at, everybody[8].created_at)
    for where in itertools.starmap(
        Filter, itertools.product((None, *states), (None, *roles), ("", "aNN"), moments, moments)
    ):
        expected = [user for user in everybody if _matches(user, where)]
        assert await listed(db, Order("id"), where=where, limit=100) == expected, where
        async with db.read() as read:
            assert await users.count(read, where) == len(expected), where


def _matches(user: UserRow, where: Filter) -> bool:
    after, before = where.created_after, where.created_before
    return (
        where.is_active in (None, user.is_active)
        and where.role in (None, user.role)
        and fold(where.query) in fold(user.username)
        and (after is None or user.created_at > after)
        and (before is None or user.created_at < before)
    )


@pytest.mark.parametrize("order", ORDERS, ids=str)
async def test_pages_hold_every_row_once_and_in_order(db: Database, order: Order) -> None:
    await _add_ties(db)
    everybody = await listed(db, Order("id"), limit=1000)
    assert len(everybody) == 24
    expected = in_order(everybody, order)
    matching = [user for user in expected if "b" in user.username.lower()]
    assert len(matching) == 10
    for limit in (1, 5, 6, 10, 24, 25):
        assert await listed(db, order, limit=limit) == expected
        assert await listed(db, order, where=Filter(query="B"), limit=limit) == matching


async def _add_ties(db: Database) -> None:
    """Adds 24 users: eight at each of three moments, their names in no order."""
    async with db.transaction() as tx:
        for name in ("B\u00e9a", "_x", "\u00e9mile", "Zo\u00eb", "ada", "ADAM", "zz", "\U0001f9ee"):
            for end in ("b3", "1", "2"):
                await users.create(tx, factories.new_user(username=name + end))
    await set_moments(db, User.created_at, lambda number, moment: moment + number % 3)


async def test_a_page_says_whether_there_is_more(db: Database) -> None:
    await factories.add_users(db, 4)
    for limit, expected in {1: True, 3: True, 4: False, 5: False}.items():
        async with db.read() as read:
            page = await users.list_page(read, Filter(), Window(Order("id"), None, limit))
        assert (page.next is not None) == expected


async def test_a_list_of_nobody_is_one_empty_page(db: Database) -> None:
    async with db.read() as read:
        page = await users.list_page(read, Filter(), Window(Order("username"), None, 5))
        assert await users.count(read, Filter()) == 0
    assert (page.rows, page.next) == ([], None)


async def test_the_profile_view_lists_the_same_rows_with_their_profiles(db: Database) -> None:
    await _add_ties(db)
    everybody = await listed(db, Order("id"), limit=1000)
    made = {user.id: await factories.add_profile(db, user.id) for user in everybody[::3]}
    for order in ORDERS:
        _, first, *rest = in_order(everybody, order)
        window = Window(order, position(order, first), 100)
        async with db.read() as read:
            page = await users.list_page(read, Filter(), window, profile=True)
        assert page.rows == [user._replace(profile=made.get(user.id)) for user in rest]


@pytest.mark.parametrize("order", ORDERS, ids=str)
async def test_who_is_there_throughout_is_seen_once_whatever_comes_and_goes(
    db: Database, order: Order
) -> None:
    await _add_ties(db)
    residents = await listed(db, Order("id"), limit=1000)
    seen: list[UserRow] = []
    async with _coming_and_going(db):
        async for page in all_pages(db, order, limit=2):
            seen += page
            # The row that the next page starts after may go too.
            for user in page:
                if user.id not in {resident.id for resident in residents}:
                    await _leave(db, user.id)
    ids = [user.id for user in seen]
    assert len(ids) == len(set(ids))
    stayed = [user for user in seen if user in residents]
    assert stayed == in_order(residents, order)


@asynccontextmanager
async def _coming_and_going(db: Database) -> AsyncIterator[None]:
    """Adds and removes users throughout a block, all over every order."""

    async def churn(first: str) -> None:
        # Without an end, a list in the order of ids would not have one either.
        for number in range(30):
            made = await factories.add_user(db, username=f"{first}{number}")
            await set_created_at(db, made.id, MAY + (number % 4 - 1))
            if number % 2:
                await _leave(db, made.id)

    churning = [asyncio.ensure_future(churn(first)) for first in ("aa", "\u00e9", "Z", "~")]
    try:
        yield
    finally:
        for task in churning:
            task.cancel()
        await asyncio.gather(*churning, return_exceptions=True)


async def _leave(db: Database, user_id: int) -> None:
    with suppress(NotFound):
        async with db.transaction() as tx:
            await users.delete(tx, user_id)


async def test_a_list_goes_on_after_a_row_that_is_gone(db: Database) -> None:
    first, second, third = await factories.add_users(db, 3)
    async with db.read() as read:
        page = await users.list_page(read, Filter(), Window(Order("id"), None, 2))
    await _leave(db, second.id)
    async with db.read() as read:
        rest = await users.list_page(read, Filter(), Window(Order("id"), page.next, 2))
    assert (page.rows, rest.rows) == ([first, second], [third])


# update


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", "New@Example.com"),
        ("username", "New"),
        ("full_name", "Ada King"),
        ("full_name", None),
        ("full_name", ""),
        ("role", Role.ADMIN),
        ("is_active", False),
    ],
)
async def test_an_update_changes_its_field_and_the_moment_and_nothing_else(
    db: Database,
    field: str,
    value: Any,  # noqa: ANN401 - as the field has it
) -> None:
    bystander = await factories.add_user(db)
    before = await factories.add_user(db, full_name="Ada")
    after = await change(db, before, **{field: value})
    assert after.updated_at > before.updated_at
    assert after == before._replace(**{field: value, "updated_at": after.updated_at})
    assert await get(db, before.id) == after
    assert await get(db, bystander.id) == bystander


async def test_an_update_changes_several_fields_at_once(db: Database) -> None:
    user = await factories.add_user(db)
    changes = {"email": "e@x", "username": "u", "full_name": "f", "role": "admin"}
    after = await change(db, user, **changes, is_active=False)
    assert (after.email, after.username, after.full_name, after.role, after.is_active) == (
        *("e@x", "u", "f", "admin", False),
    )


@pytest.mark.parametrize("field", ["email", "username"])
async def test_a_changed_name_is_found_by_and_the_old_one_is_free(db: Database, field: str) -> None:
    user = await factories.add_user(db, **{field: "old"})
    await change(db, user, **{field: "New"})
    async with db.read() as read:
        assert (await users.get(read, Key(field, "NEW"))).id == user.id  # type: ignore[arg-type]
        with pytest.raises(NotFound):
            await users.get(read, Key(field, "old"))  # type: ignore[arg-type]
    await factories.add_user(db, **{field: "OLD"})


@pytest.mark.parametrize("field", ["email", "username"])
async def test_a_name_may_change_its_case(db: Database, field: str) -> None:
    user = await factories.add_user(db, **{field: "ada"})
    after = await change(db, user, **{field: "ADA"})
    assert getattr(after, field) == "ADA"
    assert after.updated_at > user.updated_at


@pytest.mark.parametrize("field", ["email", "username"])
async def test_an_update_to_a_taken_name_is_refused_and_changes_nothing(
    db: Database, field: str
) -> None:
    await factories.add_user(db, **{field: "ada"})
    user = await factories.add_user(db)
    with pytest.raises(AlreadyExists) as refused:
        await change(db, user, **{field: "ADA", "full_name": "Ada"})
    assert (refused.value.resource, refused.value.field) == ("user", field)
    assert await get(db, user.id) == user


@pytest.mark.parametrize("names", [(), ("full_name",), ("email", "username", "role", "is_active")])
async def test_an_update_to_the_same_values_leaves_the_moment(
    db: Database, names: tuple[str, ...]
) -> None:
    user = await factories.add_user(db)
    assert await change(db, user, **{name: getattr(user, name) for name in names}) == user


async def test_every_change_moves_the_moment_forward_also_within_a_transaction(
    db: Database,
) -> None:
    user = await factories.add_user(db)
    moments = [user.updated_at]
    async with db.transaction() as tx:
        for number in range(5):
            row = await users.update(tx, user.id, {"full_name": str(number)})
            moments.append(row.updated_at)
    assert moments == sorted(set(moments))


async def test_a_change_moves_the_moment_forward_when_the_clock_is_behind_it(
    db: Database,
) -> None:
    user = await factories.add_user(db)
    await set_moments(db, User.updated_at, lambda *_: FAR_FUTURE)
    assert (await change(db, user, full_name="a")).updated_at == FAR_FUTURE + 1
    assert (await change(db, user, full_name="a")).updated_at == FAR_FUTURE + 1
    assert (await change(db, user, full_name="b")).updated_at == FAR_FUTURE + 2


async def test_an_update_holds_only_for_the_state_that_it_was_made_for(db: Database) -> None:
    read = await factories.add_user(db)
    changed = await change(db, read, full_name="somebody else's")
    with pytest.raises(Stale) as refused:
        async with db.transaction() as tx:
            await users.update(tx, read.id, {"role": "admin"}, unchanged_since=read.updated_at)
    assert (refused.value.resource, refused.value.name) == ("user", str(read.id))
    assert await get(db, read.id) == changed
    async with db.transaction() as tx:
        since = changed.updated_at
        await users.update(tx, read.id, {"role": "admin"}, unchanged_since=since)
    assert (await get(db, read.id)).role == Role.ADMIN


async def test_of_two_updates_of_one_state_the_second_is_stale(db: Database) -> None:
    user = await factories.add_user(db)

    async def promote(role: Role) -> UserRow:
        async with db.transaction() as tx:
            since = user.updated_at
            return await users.update(tx, user.id, {"role": role}, unchanged_since=since)

    outcomes = await asyncio.gather(
        *(promote(role) for role in (Role.ADMIN, Role.MODERATOR)), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Stale", "UserRow"]


@pytest.mark.parametrize("since", [None, FAR_FUTURE])
async def test_an_update_or_deletion_of_nobody_is_not_found(
    db: Database, since: Moment | None
) -> None:
    async with db.transaction() as tx:
        with pytest.raises(NotFound) as missed:
            await users.update(tx, 12345, {"full_name": "x"}, unchanged_since=since)
        assert (missed.value.resource, missed.value.name) == ("user", "12345")
        with pytest.raises(NotFound) as missed:
            await users.delete(tx, 12345, unchanged_since=since)
        assert (missed.value.resource, missed.value.name) == ("user", "12345")


# delete


async def test_a_deleted_user_is_gone_and_so_is_the_profile(db: Database) -> None:
    user, other = await factories.add_users(db, 2)
    for each in (user, other):
        await factories.add_profile(db, each.id)
    async with db.transaction() as tx:
        await users.delete(tx, user.id, unchanged_since=user.updated_at)
    async with db.read() as read:
        assert list(await users.batch_get(read, [user.id, other.id])) == [other.id]
        await profiles.get(read, other.id)
        with pytest.raises(NotFound):
            await profiles.get(read, user.id)


async def test_a_deletion_frees_the_names_and_not_the_id(db: Database) -> None:
    user = await factories.add_user(db, username="ada", email="ada@example.com")
    await _leave(db, user.id)
    heir = await factories.add_user(db, username="ada", email="ada@example.com")
    assert heir.id > user.id


async def test_a_deletion_holds_only_for_the_state_that_it_was_made_for(db: Database) -> None:
    user = await factories.add_user(db)
    changed = await change(db, user, full_name="somebody else's")
    with pytest.raises(Stale):
        async with db.transaction() as tx:
            await users.delete(tx, user.id, unchanged_since=user.updated_at)
    assert await get(db, user.id) == changed


# deactivate and purge


async def test_deactivation_takes_those_that_match_and_says_how_many(db: Database) -> None:
    made = await factories.add_users(db, 4)
    for user in made[:3]:
        await set_created_at(db, user.id, moment_of(datetime(2020, 1, 1, tzinfo=UTC)))
    idle = await change(db, made[0], is_active=False)
    where = Filter(is_active=True, created_before=moment_of(datetime(2021, 1, 1, tzinfo=UTC)))
    async with db.transaction() as tx:
        assert await users.deactivate(tx, where) == 2
        assert await users.deactivate(tx, where) == 0
    after = {user.id: user for user in await listed(db, Order("id"))}
    assert [after[user.id].is_active for user in made] == [False, False, False, True]
    assert after[made[0].id].updated_at == idle.updated_at
    assert after[made[3].id] == made[3]
    assert all(after[user.id].updated_at > user.updated_at for user in made[1:3])


async def test_deactivation_moves_the_moment_forward_when_the_clock_is_behind_it(
    db: Database,
) -> None:
    user = await factories.add_user(db)
    await set_moments(db, User.updated_at, lambda *_: FAR_FUTURE)
    async with db.transaction() as tx:
        assert await users.deactivate(tx, Filter()) == 1
    assert (await get(db, user.id)).updated_at == FAR_FUTURE + 1


async def test_purging_takes_the_inactive_and_their_profiles_and_says_how_many(
    db: Database,
) -> None:
    made = await factories.add_users(db, 4)
    for user in made:
        await factories.add_profile(db, user.id)
    for user in made[:2]:
        await change(db, user, is_active=False)
    async with db.transaction() as tx:
        assert await users.purge(tx, Filter(is_active=False)) == 2
        assert await users.purge(tx, Filter(is_active=False)) == 0
    async with db.read() as read:
        assert list(await users.batch_get(read, [user.id for user in made])) == [
            user.id for user in made[2:]
        ]
        left = await read.execute(text("SELECT user_id FROM profiles ORDER BY user_id"))
    assert left.scalars().all() == [user.id for user in made[2:]]


async def test_a_user_who_changes_meanwhile_is_deactivated_as_they_are_by_then(
    db: Database, shared_url: str
) -> None:
    await factories.add_users(db, 3)
    users_before = await listed(db, Order("id"))

    async def deactivate() -> int:
        async with db.transaction() as tx:
            return await users.deactivate(tx, Filter(is_active=True))

    async with db.transaction() as tx:
        await users.update(tx, users_before[0].id, {"full_name": "Changed"})
        await users.update(tx, users_before[1].id, {"is_active": False})
        deactivating = asyncio.ensure_future(deactivate())
        await until_waiting_for_a_lock(shared_url)
    assert await deactivating == 2
    after = await listed(db, Order("id"))
    assert [(user.full_name, user.is_active) for user in after] == [
        *(("Changed", False), (None, False), (None, False)),
    ]


async def test_a_user_who_comes_back_meanwhile_is_not_purged(db: Database, shared_url: str) -> None:
    back, idle = await factories.add_users(db, 2)
    for user in (back, idle):
        await change(db, user, is_active=False)

    async def purge() -> int:
        async with db.transaction() as tx:
            return await users.purge(tx, Filter(is_active=False))

    async with db.transaction() as tx:
        await users.update(tx, back.id, {"is_active": True})
        purging = asyncio.ensure_future(purge())
        await until_waiting_for_a_lock(shared_url)
    assert await purging == 1
    assert [user.id for user in await listed(db, Order("id"))] == [back.id]


@differs(Difference.ONE_WRITER)
async def test_two_deactivations_at_once_lock_in_the_order_of_ids(
    db: Database, shared_url: str
) -> None:
    """The second waits at the first id, having locked no later one, so neither can deadlock."""
    made = await factories.add_users(db, 5)
    # The rows lie on disk in another order than that of their ids.
    for user in reversed(made):
        await change(db, user, full_name="moved")

    async def deactivate() -> int:
        async with db.transaction() as tx:
            return await users.deactivate(tx, Filter(is_active=True))

    async with locked_user(shared_url, made[0].id):
        deactivating = asyncio.ensure_future(deactivate())
        await until_waiting_for_a_lock(shared_url)
        async with db.transaction() as tx:
            free = await tx.execute(select(User.id).with_for_update(skip_locked=True))
            assert set(free.scalars()) == {user.id for user in made[1:]}
    assert await deactivating == 5


# passwords


@pytest.mark.parametrize("field", ["id", "email", "username"])
async def test_credentials_are_a_user_and_their_hash_by_any_key(db: Database, field: str) -> None:
    await factories.add_user(db)
    user = await factories.add_user(db, password_hash="$argon2id$x")
    key = Key(field, getattr(user, field))  # type: ignore[arg-type] # one of the three
    async with db.read() as read:
        assert await users.get_credentials(read, key) == (user, "$argon2id$x")


async def test_nobody_has_no_credentials(db: Database) -> None:
    await factories.add_user(db)
    async with db.read() as read:
        assert await users.get_credentials(read, Key("email", "nobody@example.com")) is None


async def _hash_of(db: Database, user: UserRow) -> str:
    async with db.read() as read:
        known = await users.get_credentials(read, Key("id", user.id))
    assert known is not None
    return known.password_hash


async def test_a_changed_password_is_a_change_of_the_user(db: Database) -> None:
    user = await factories.add_user(db, password_hash="old")
    async with db.transaction() as tx:
        await users.change_password(tx, user.id, "old", "new")
    assert await _hash_of(db, user) == "new"
    assert (await get(db, user.id)).updated_at > user.updated_at
    await set_moments(db, User.updated_at, lambda *_: FAR_FUTURE)
    async with db.transaction() as tx:
        await users.change_password(tx, user.id, "new", "newer")
    assert (await get(db, user.id)).updated_at == FAR_FUTURE + 1


async def test_a_password_changes_only_from_the_one_that_was_checked(db: Database) -> None:
    user = await factories.add_user(db, password_hash="old")
    for old, user_id in (("other", user.id), ("old", user.id + 1)):
        with pytest.raises(Contention):
            async with db.transaction() as tx:
                await users.change_password(tx, user_id, old, "new")
    assert await _hash_of(db, user) == "old"
    assert await get(db, user.id) == user


async def test_a_rehashed_password_is_no_change_of_the_user(db: Database) -> None:
    user = await factories.add_user(db, password_hash="old")
    async with db.transaction() as tx:
        await users.rehash_password(tx, user.id, "old", "stronger")
    assert await _hash_of(db, user) == "stronger"
    assert await get(db, user.id) == user


async def test_a_password_that_has_changed_meanwhile_is_not_rehashed(db: Database) -> None:
    user = await factories.add_user(db, password_hash="changed")
    async with db.transaction() as tx:
        await users.rehash_password(tx, user.id, "old", "stronger")
    assert await _hash_of(db, user) == "changed"
