"""SQL about profiles."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from storage import profiles, users
from storage.errors import NotFound, Stale
from storage.models import Profile
from storage.moments import Moment, moment_of
from storage.profiles import ProfileRow
from tests import factories
from tests.onlookers import until_waiting_for_a_lock
from tests.statements import set_moments

if TYPE_CHECKING:
    from storage.database import Database

FAR_FUTURE = moment_of(datetime(2999, 12, 31, tzinfo=UTC))


async def get(db: Database, user_id: int) -> ProfileRow:
    async with db.read() as read:
        return await profiles.get(read, user_id)


async def change(db: Database, user_id: int, **changes: object) -> ProfileRow:
    async with db.transaction() as tx:
        return await profiles.update(tx, user_id, changes)


async def change_or_make(db: Database, user_id: int, **changes: object) -> ProfileRow:
    async with db.transaction() as tx:
        return await profiles.update_or_create(tx, user_id, changes)


async def add(db: Database) -> ProfileRow:
    return await factories.add_profile(db, (await factories.add_user(db)).id)


async def move_into_the_future(db: Database) -> None:
    await set_moments(db, Profile.updated_at, lambda *_: FAR_FUTURE)


# create and get


@pytest.mark.parametrize(
    ("bio", "avatar_url"),
    [("", ""), ("Lines\nand 🧮\t" * 500, "https://example.com/" + "a" * 480)],
)
async def test_a_profile_is_kept_as_given(db: Database, bio: str, avatar_url: str) -> None:
    user = await factories.add_user(db)
    made = await factories.add_profile(db, user.id, bio, avatar_url)
    assert made == ProfileRow(user.id, bio, avatar_url, made.updated_at)
    assert await get(db, user.id) == made


async def test_a_missing_profile_is_not_found_whether_or_not_there_is_a_user(db: Database) -> None:
    user = await factories.add_user(db)
    for user_id in (user.id, user.id + 1, -1, 2**63 - 1):
        with pytest.raises(NotFound) as missed:
            await get(db, user_id)
        assert (missed.value.resource, missed.value.name) == ("profile", str(user_id))


# update


@pytest.mark.parametrize(
    "changes", [{"bio": "New"}, {"bio": ""}, {"avatar_url": ""}, {"bio": "a", "avatar_url": "b"}]
)
async def test_an_update_changes_what_is_given_and_the_moment(
    db: Database, changes: dict[str, str]
) -> None:
    bystander, before = await add(db), await add(db)
    after = await change(db, before.user_id, **changes)
    expected = {"bio": before.bio, "avatar_url": before.avatar_url, **changes}
    assert after == ProfileRow(before.user_id, **expected, updated_at=after.updated_at)
    assert after.updated_at > before.updated_at
    assert await get(db, before.user_id) == after
    assert await get(db, bystander.user_id) == bystander


@pytest.mark.parametrize("names", [(), ("bio",), ("bio", "avatar_url")])
async def test_an_update_to_the_same_values_leaves_the_moment(
    db: Database, names: tuple[str, ...]
) -> None:
    before = await add(db)
    same = {name: getattr(before, name) for name in names}
    assert await change(db, before.user_id, **same) == before
    assert await change_or_make(db, before.user_id, **same) == before


async def test_an_update_of_a_profile_is_no_change_of_the_user(db: Database) -> None:
    user = await factories.add_user(db)
    await factories.add_profile(db, user.id)
    await change(db, user.id, bio="New")
    async with db.read() as read:
        assert await users.get(read, users.Key("id", user.id)) == user


async def test_a_change_moves_the_moment_forward_when_the_clock_is_behind_it(
    db: Database,
) -> None:
    before = await add(db)
    await move_into_the_future(db)
    assert (await change(db, before.user_id, bio="a")).updated_at == FAR_FUTURE + 1
    assert (await change(db, before.user_id, bio="a")).updated_at == FAR_FUTURE + 1
    assert (await change_or_make(db, before.user_id, bio="b")).updated_at == FAR_FUTURE + 2


async def test_an_update_holds_only_for_the_state_that_it_was_made_for(db: Database) -> None:
    read = await add(db)
    changed = await change(db, read.user_id, bio="somebody else's")
    for act in (profiles.update, profiles.update_or_create):
        with pytest.raises(Stale) as refused:
            async with db.transaction() as tx:
                await act(tx, read.user_id, {"bio": "x"}, unchanged_since=read.updated_at)
        assert (refused.value.resource, refused.value.name) == ("profile", str(read.user_id))
        assert await get(db, read.user_id) == changed
    for act in (profiles.update, profiles.update_or_create):
        async with db.transaction() as tx:
            changes = {"bio": act.__name__}
            changed = await act(tx, read.user_id, changes, unchanged_since=changed.updated_at)
        assert (await get(db, read.user_id)).bio == act.__name__


@pytest.mark.parametrize("since", [None, FAR_FUTURE])
async def test_an_update_of_a_missing_profile_is_not_found(
    db: Database, since: Moment | None
) -> None:
    user = await factories.add_user(db)
    for user_id in (user.id, user.id + 1):
        async with db.transaction() as tx:
            with pytest.raises(NotFound) as missed:
                await profiles.update(tx, user_id, {"bio": "x"}, unchanged_since=since)
        assert (missed.value.resource, missed.value.name) == ("profile", str(user_id))


# update_or_create


@pytest.mark.parametrize(
    "changes", [{}, {"bio": "New"}, {"avatar_url": "u"}, {"bio": "b", "avatar_url": "u"}]
)
async def test_a_missing_profile_is_made_empty_but_for_the_changes(
    db: Database, changes: dict[str, str]
) -> None:
    user = await factories.add_user(db)
    made = await change_or_make(db, user.id, **changes)
    assert (made.bio, made.avatar_url) == (changes.get("bio", ""), changes.get("avatar_url", ""))
    assert await get(db, user.id) == made


async def test_a_profile_that_is_there_is_changed_and_not_emptied(db: Database) -> None:
    before = await add(db)
    after = await change_or_make(db, before.user_id, bio="New")
    assert (after.bio, after.avatar_url) == ("New", before.avatar_url)
    assert after.updated_at > before.updated_at


async def test_no_profile_is_made_for_nobody(db: Database) -> None:
    with pytest.raises(NotFound) as missed:
        await change_or_make(db, 12345, bio="x")
    assert (missed.value.resource, missed.value.name) == ("user", "12345")


async def test_no_profile_is_made_where_a_state_was_expected(db: Database) -> None:
    user = await factories.add_user(db)
    async with db.transaction() as tx:
        with pytest.raises(NotFound) as missed:
            await profiles.update_or_create(
                tx, user.id, {"bio": "x"}, unchanged_since=user.updated_at
            )
    assert missed.value.resource == "profile"
    with pytest.raises(NotFound):
        await get(db, user.id)


async def test_of_two_who_make_a_profile_the_second_changes_it(
    db: Database, shared_url: str
) -> None:
    user = await factories.add_user(db)
    async with db.transaction() as tx:
        await profiles.update_or_create(tx, user.id, {"bio": "first", "avatar_url": "first"})
        second = asyncio.ensure_future(change_or_make(db, user.id, bio="second"))
        await until_waiting_for_a_lock(shared_url)
    await second
    found = await get(db, user.id)
    assert (found.bio, found.avatar_url) == ("second", "first")


async def test_no_profile_is_made_for_a_user_who_is_deleted_meanwhile(
    db: Database, shared_url: str
) -> None:
    user = await factories.add_user(db)
    async with db.transaction() as tx:
        await users.delete(tx, user.id)
        making = asyncio.ensure_future(change_or_make(db, user.id, bio="x"))
        await until_waiting_for_a_lock(shared_url)
    with pytest.raises(NotFound) as missed:
        await making
    assert missed.value.resource == "user"


async def test_a_profile_that_is_removed_meanwhile_is_made_again(
    db: Database, shared_url: str
) -> None:
    profile = await add(db)
    async with db.transaction() as tx:
        await tx.execute(select(Profile.user_id).with_for_update())
        changing = asyncio.ensure_future(change_or_make(db, profile.user_id, bio="x"))
        # It has found a profile, and waits to change it.
        await until_waiting_for_a_lock(shared_url)
        await profiles.delete(tx, profile.user_id)
    await changing
    found = await get(db, profile.user_id)
    assert (found.bio, found.avatar_url) == ("x", "")


# delete


async def test_a_deleted_profile_is_gone_and_its_user_stays(db: Database) -> None:
    user = await factories.add_user(db)
    await factories.add_profile(db, user.id)
    other = await add(db)
    async with db.transaction() as tx:
        await profiles.delete(tx, user.id)
    with pytest.raises(NotFound):
        await get(db, user.id)
    assert await get(db, other.user_id) == other
    async with db.read() as read:
        assert await users.get(read, users.Key("id", user.id), profile=True) == user


async def test_a_deletion_of_a_missing_profile_is_not_found(db: Database) -> None:
    user = await factories.add_user(db)
    for user_id in (user.id, user.id + 1):
        async with db.transaction() as tx:
            with pytest.raises(NotFound) as missed:
                await profiles.delete(tx, user_id)
        assert (missed.value.resource, missed.value.name) == ("profile", str(user_id))
