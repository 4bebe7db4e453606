"""UserService, as its callers see it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from byline.v1 import posts_pb2, profiles_pb2, resources_pb2, tags_pb2
from byline.v1 import users_pb2 as pb
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import update as sql_update

from storage.models import Post
from storage.moments import moment_of
from tests import factories
from tests.clients import Refusal, missing, outcome_of, refusal_of, stale, summary_of, taken
from tests.factories import PASSWORD
from tests.onlookers import locked_user, looking_on, until_waiting_for_a_lock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from storage.database import Database
    from tests.clients import Client, What
    from tests.conftest import Serve

NANOS = 10**9
UNKNOWN_LOGIN = (grpc.StatusCode.UNAUTHENTICATED, "byline/INVALID_CREDENTIALS", ("", ""))

# Spellings of one name, and whether they are the same by case alone.
SAME_NAMES = [
    ("ada", "ADA"),
    ("straße", "STRASSE"),
    ("Ærøskøbing", "ærØSKØBING"),
    ("caf\u00e9", "CAFE\u0301"),  # one character, or two
    ("ὈΔΥΣΣΕΎΣ", "ὀδυσσεύς"),  # a final sigma
    ("ﬁn", "FIN"),  # a ligature
]
DIFFERENT_NAMES = [
    ("ada", "adá"),
    ("ilya", "\u0131lya"),
    ("i\u0307lya", "ilya"),
    ("ada", "\u0430da"),
]


@pytest.fixture
def database_url(emptied_url: str) -> str:
    return emptied_url


@pytest.fixture
def client(emptied_url: str, shared_client: Client) -> Client:
    del emptied_url
    return shared_client


# CreateUser


async def test_a_created_user_can_be_read_by_every_key(client: Client) -> None:
    made = await factories.create_user(client, email="Ada@Example.com", username="Ada")
    for key in ({"id": made.id}, {"email": "ada@EXAMPLE.com"}, {"username": "ADA"}):
        answer = await client.users.GetUser(pb.GetUserRequest(**key))
        assert answer.user == made


async def test_a_user_is_kept_as_given(client: Client) -> None:
    made = await factories.create_user(
        client,
        email="Ada@Example.com",
        username="Ada L.",
        full_name="Augusta Ada King",
        role=resources_pb2.USER_ROLE_MODERATOR,
        profile=pb.NewProfile(bio="Wrote\nnotes.", avatar_url="https://example.com/ada"),
    )
    assert made == resources_pb2.User(
        id=made.id,
        email="Ada@Example.com",
        username="Ada L.",
        full_name="Augusta Ada King",
        role=resources_pb2.USER_ROLE_MODERATOR,
        is_active=True,
        created_at=made.created_at,
        updated_at=made.created_at,
        etag=made.etag,
        profile=resources_pb2.Profile(
            user_id=made.id,
            bio="Wrote\nnotes.",
            avatar_url="https://example.com/ada",
            etag=made.profile.etag,
        ),
    )
    assert made.id
    assert made.etag
    assert made.profile.etag
    assert await get(client, made.id, view=pb.USER_VIEW_PROFILE) == made


async def test_what_is_not_given_is_not_there(client: Client) -> None:
    made = await factories.create_user(client)
    assert made.role == resources_pb2.USER_ROLE_USER
    assert not made.HasField("full_name")
    assert not made.HasField("profile")


async def test_what_is_given_empty_is_there(client: Client) -> None:
    made = await factories.create_user(client, full_name="", profile=pb.NewProfile())
    assert made.HasField("full_name")
    assert made.HasField("profile")
    assert await get(client, made.id, view=pb.USER_VIEW_PROFILE) == made


async def test_the_time_is_the_databases(client: Client, database_url: str) -> None:
    async with looking_on(database_url) as onlooker:
        before = await onlooker.now()
        made = await factories.create_user(client)
        after = await onlooker.now()
    assert before <= made.created_at.ToMicroseconds() <= after


@pytest.mark.parametrize(
    "name", ["名前", "Ærøskøbing", "🦉", "\u0131", "\u0130", "e\u0301", "a\u200db"]
)
async def test_names_are_kept_to_the_code_point(client: Client, name: str) -> None:
    made = await factories.create_user(client, username=name, full_name=name)
    assert (made.username, made.full_name) == (name, name)
    answer = await client.users.GetUser(pb.GetUserRequest(username=name))
    assert answer.user == made


@pytest.mark.parametrize(("name", "again"), SAME_NAMES)
async def test_a_username_is_unique_without_regard_to_case(
    client: Client, name: str, again: str
) -> None:
    made = await factories.create_user(client, username=name)
    refusal = await refusal_of(factories.create_user(client, username=again))
    assert refusal.what == taken("user", "username")
    answer = await client.users.GetUser(pb.GetUserRequest(username=again))
    assert answer.user == made


@pytest.mark.parametrize(("name", "other"), DIFFERENT_NAMES)
async def test_usernames_that_differ_by_more_than_case_are_two(
    client: Client, name: str, other: str
) -> None:
    await factories.create_user(client, username=name)
    await factories.create_user(client, username=other)


async def test_an_email_is_unique_without_regard_to_case(client: Client) -> None:
    await factories.create_user(client, email="Ada@example.com")
    refusal = await refusal_of(
        factories.create_user(client, email="aDA@EXAMPLE.com", profile=pb.NewProfile())
    )
    assert refusal.what == taken("user", "email")
    assert await count(client) == 1


@pytest.mark.parametrize(("field", "value"), [("email", "ada@example.com"), ("username", "ada")])
async def test_of_fifty_callers_who_race_for_a_name_one_gets_it(
    client: Client, field: str, value: str
) -> None:
    spellings = [value, value.upper()] * 25
    answers = await asyncio.gather(
        *(outcome_of(factories.create_user(client, **{field: each})) for each in spellings)
    )
    refusals = [answer for answer in answers if isinstance(answer, Refusal)]
    assert [refusal.what for refusal in refusals] == [taken("user", field)] * 49
    assert await count(client) == 1


# GetUser, BatchGetUsers


@pytest.mark.parametrize(
    ("view", "profile", "posts"),
    [
        (pb.USER_VIEW_UNSPECIFIED, False, False),
        (pb.USER_VIEW_BASIC, False, False),
        (pb.USER_VIEW_PROFILE, True, False),
        (pb.USER_VIEW_FULL, True, True),
    ],
)
async def test_a_view_says_how_much_is_loaded(
    client: Client, view: pb.UserView.ValueType, *, profile: bool, posts: bool
) -> None:
    ada = await factories.create_user(client, profile=pb.NewProfile(bio="Counts."))
    bob = await factories.create_user(client)
    post = await factories.create_post(client, author_id=ada.id, published=True, tags=["Maths"])
    if not profile:
        ada.ClearField("profile")
    if posts:
        ada.post_count, bob.post_count = 1, 0
        ada.newest_posts.append(summary_of(post))
    assert await get(client, ada.id, view=view) == ada
    assert await get(client, bob.id, view=view) == bob
    ids = [bob.id, ada.id, bob.id]
    batch = await client.users.BatchGetUsers(pb.BatchGetUsersRequest(ids=ids, view=view))
    assert list(batch.users) == [bob, ada, bob]
    everybody = await client.users.ListUsers(pb.ListUsersRequest(view=view))
    assert list(everybody.users) == [ada, bob]
    authors = await client.users.ListAuthors(pb.ListAuthorsRequest(view=view))
    assert list(authors.users) == [ada]


async def test_the_full_view_counts_all_posts_and_shows_the_20_newest(
    client: Client, db: Database
) -> None:
    ada, bob = [await factories.create_user(client) for _ in range(2)]
    made = [
        await factories.create_post(client, author_id=(ada, bob)[number % 2].id)
        for number in range(46)
    ]
    # An old post may have been added last, and posts may be of the same moment.
    moved = {44: 2020, 42: 2999, 4: 2998, 6: 2998, 8: 2998}
    async with db.transaction() as tx:
        for number, year in moved.items():
            await tx.execute(
                sql_update(Post)
                .where(Post.id == made[number].id)
                .values(created_at=moment_of(datetime(year, 1, 1, tzinfo=UTC)))
            )
    adas = [made[number] for number in (42, 8, 6, 4, *range(40, 9, -2))]
    bobs = made[45::-2][:20]
    for user, newest in ((ada, adas), (bob, bobs)):
        full = await get(client, user.id, view=pb.USER_VIEW_FULL)
        assert full.post_count == 23
        assert [post.id for post in full.newest_posts] == [post.id for post in newest]
        assert len(full.newest_posts) == 20
    batch = await client.users.BatchGetUsers(
        pb.BatchGetUsersRequest(ids=[bob.id, ada.id], view=pb.USER_VIEW_FULL)
    )
    assert [[post.id for post in user.newest_posts] for user in batch.users] == [
        [post.id for post in newest] for newest in (bobs, adas)
    ]


async def test_what_a_user_writes_is_no_change_of_the_user(client: Client) -> None:
    made = await factories.create_user(client)
    await factories.create_post(client, author_id=made.id, published=True)
    assert await get(client, made.id) == made


@pytest.mark.parametrize("key", [{"id": 7}, {"email": "ada@example.com"}, {"username": "Ada"}])
async def test_a_user_who_is_not_there_is_named(client: Client, key: Mapping[str, Any]) -> None:
    refusal = await refusal_of(client.users.GetUser(pb.GetUserRequest(**key)))
    assert refusal.what == missing("user", *key.values())


async def test_a_batch_comes_in_the_order_asked(client: Client) -> None:
    ada, bob, eve = [await factories.create_user(client) for _ in range(3)]
    answer = await client.users.BatchGetUsers(
        pb.BatchGetUsersRequest(ids=[eve.id, 99, ada.id, eve.id, 98, bob.id, 99])
    )
    assert list(answer.users) == [eve, ada, eve, bob]
    assert list(answer.missing_ids) == [99, 98]


# ListUsers, CountUsers


@pytest.mark.parametrize(
    ("order_by", "expected"),
    [
        ("", "Dora ada Bob Cyd"),
        ("id", "Dora ada Bob Cyd"),
        ("id desc", "Cyd Bob ada Dora"),
        ("created_at", "Dora ada Bob Cyd"),
        ("created_at desc", "Cyd Bob ada Dora"),
        ("username", "ada Bob Cyd Dora"),
        ("username desc", "Dora Cyd Bob ada"),
    ],
)
@pytest.mark.parametrize("page_size", [1, 3, 4])
async def test_pages_show_everyone_once_and_in_order(
    client: Client, order_by: str, expected: str, page_size: int
) -> None:
    for name in ("Dora", "ada", "Bob", "Cyd"):
        await factories.create_user(client, username=name)
    pages = await list_pages(client, order_by=order_by, page_size=page_size)
    assert [user.username for page in pages for user in page] == expected.split()
    assert {len(page) for page in pages[:-1]} <= {page_size}
    assert pages[-1]


@pytest.mark.parametrize(
    ("page_size", "rows"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (10**9, 1000)]
)
async def test_a_page_has_50_users_unless_asked_and_1000_at_most(
    client: Client, db: Database, page_size: int, rows: int
) -> None:
    await factories.add_many_users(db, 1001)
    answer = await client.users.ListUsers(pb.ListUsersRequest(page_size=page_size))
    assert len(answer.users) == rows
    assert answer.next_page_token


async def test_the_size_and_the_view_may_change_from_page_to_page(client: Client) -> None:
    users = [await factories.create_user(client) for _ in range(3)]
    first = await client.users.ListUsers(pb.ListUsersRequest(page_size=1))
    rest = await client.users.ListUsers(
        pb.ListUsersRequest(
            page_size=5, view=pb.USER_VIEW_PROFILE, page_token=first.next_page_token
        )
    )
    assert [*first.users, *rest.users] == users


async def test_a_page_goes_on_after_a_user_who_is_gone(client: Client) -> None:
    users = [await factories.create_user(client) for _ in range(3)]
    first = await client.users.ListUsers(pb.ListUsersRequest(page_size=1))
    await client.users.DeleteUser(pb.DeleteUserRequest(id=users[0].id))
    rest = await client.users.ListUsers(
        pb.ListUsersRequest(page_size=1000, page_token=first.next_page_token)
    )
    assert list(rest.users) == users[1:]


async def test_nobody_is_an_empty_page(client: Client) -> None:
    assert await list_pages(client) == [[]]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, "ada bob eve 100%_\\ Straße"),
        ({"is_active": True}, "ada bob 100%_\\ Straße"),
        ({"is_active": False}, "eve"),
        ({"role": resources_pb2.USER_ROLE_USER}, "bob eve 100%_\\ Straße"),
        ({"role": resources_pb2.USER_ROLE_ADMIN}, "ada"),
        ({"role": resources_pb2.USER_ROLE_MODERATOR}, ""),
        ({"role": resources_pb2.USER_ROLE_USER, "is_active": False}, "eve"),
        ({"query": "B"}, "bob"),
        ({"query": "@MATHS"}, "ada"),
        ({"query": "%"}, "100%_\\"),
        ({"query": "_"}, "100%_\\"),
        ({"query": "\\"}, "100%_\\"),
        ({"query": "0%_\\"}, "100%_\\"),
        ({"query": "a%a"}, ""),
        ({"query": "RASS"}, "Straße"),
        ({"query": "ß"}, "Straße"),
        ({"query": "b", "role": resources_pb2.USER_ROLE_ADMIN}, ""),
    ],
)
async def test_a_filter_narrows_the_list_and_the_count(
    client: Client, where: Mapping[str, Any], expected: str
) -> None:
    await factories.create_user(
        client, username="ada", email="x@maths.org", role=resources_pb2.USER_ROLE_ADMIN
    )
    for number, name in enumerate(("bob", "eve", "100%_\\", "Straße")):
        made = await factories.create_user(client, username=name, email=f"{number}@x.org")
        if name == "eve":
            await update(client, made, "is_active", is_active=False)
    pages = await list_pages(client, filter=pb.UserFilter(**where), page_size=2)
    assert [user.username for page in pages for user in page] == expected.split()
    assert await count(client, **where) == len(expected.split())


@pytest.mark.parametrize(
    ("field", "shift", "expected"),
    [
        ("created_after", 0, "eve"),
        ("created_after", 1, "eve"),
        ("created_after", -1, "bob eve"),
        ("created_after", -1000, "bob eve"),
        ("created_before", 0, "ada"),
        ("created_before", -1, "ada"),
        ("created_before", 1, "ada bob"),
        ("created_before", 1000, "ada bob"),
    ],
)
async def test_a_moment_counts_to_the_nanosecond_and_is_itself_left_out(
    client: Client, field: str, shift: int, expected: str
) -> None:
    users = {
        name: await factories.create_user(client, username=name) for name in ("ada", "bob", "eve")
    }
    seconds, nanos = divmod(nanoseconds(users["bob"].created_at) + shift, NANOS)
    where: dict[str, Any] = {field: Timestamp(seconds=seconds, nanos=nanos)}
    pages = await list_pages(client, filter=pb.UserFilter(**where))
    assert [user.username for user in pages[0]] == expected.split()
    assert await count(client, **where) == len(expected.split())


# UpdateUser


@pytest.mark.parametrize(
    ("mask", "changed"),
    [
        (["email"], {"email"}),
        (["username"], {"username"}),
        (["full_name"], {"full_name"}),
        (["role"], {"role"}),
        (["is_active"], {"is_active"}),
        (["username", "role"], {"username", "role"}),
        (["*"], {"email", "username", "full_name", "role", "is_active"}),
        # False is not set, for it cannot be told from nothing.
        ([], {"email", "username", "full_name", "role"}),
    ],
)
async def test_an_update_changes_what_its_mask_names(
    client: Client, mask: Sequence[str], changed: set[str]
) -> None:
    made = await factories.create_user(client, full_name="Ada", profile=pb.NewProfile(bio="Kept."))
    sent: dict[str, Any] = {
        "email": "new@example.com",
        "username": "new",
        "full_name": "New",
        "role": resources_pb2.USER_ROLE_ADMIN,
        "is_active": False,
    }
    after = await update(client, made, *mask, **sent)
    for field, value in sent.items():
        assert getattr(after, field) == (value if field in changed else getattr(made, field))
    assert (after.id, after.created_at) == (made.id, made.created_at)
    assert nanoseconds(after.updated_at) > nanoseconds(made.updated_at)
    assert after.etag != made.etag
    assert await get(client, made.id) == after
    assert (await get(client, made.id, view=pb.USER_VIEW_PROFILE)).profile == made.profile


@pytest.mark.parametrize(
    ("mask", "sent", "expected"),
    [
        (["full_name"], {}, None),
        (["full_name"], {"full_name": ""}, ""),
        ([], {"full_name": ""}, ""),
        ([], {"username": "other"}, "Ada"),
        (["username"], {"username": "other"}, "Ada"),
    ],
)
async def test_a_full_name_is_cleared_by_naming_it_alone(
    client: Client, mask: Sequence[str], sent: Mapping[str, Any], expected: str | None
) -> None:
    made = await factories.create_user(client, full_name="Ada")
    after = await update(client, made, *mask, **sent)
    assert (after.full_name if after.HasField("full_name") else None) == expected


@pytest.mark.parametrize("field", ["email", "username", "role"])
async def test_what_a_user_must_have_cannot_be_cleared(client: Client, field: str) -> None:
    made = await factories.create_user(client)
    refusal = await refusal_of(update(client, made, "full_name", field))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.fields == (f"user.{field}",)
    assert await get(client, made.id) == made


async def test_an_update_that_changes_nothing_leaves_no_trace(client: Client) -> None:
    made = await factories.create_user(client, full_name="Ada")
    same = {"email": made.email, "username": made.username, "full_name": "Ada", "role": made.role}
    for mask in ([], ["*"], ["email"]):
        assert await update(client, made, *mask, **same, is_active=True) == made
    assert await update(client, made) == made
    assert await get(client, made.id) == made


@pytest.mark.parametrize("field", ["email", "username"])
async def test_a_name_that_another_has_cannot_be_taken(client: Client, field: str) -> None:
    other = await factories.create_user(client)
    made = await factories.create_user(client)
    refusal = await refusal_of(
        update(client, made, field, **{field: getattr(other, field).upper()})
    )
    assert refusal.what == taken("user", field)
    assert await get(client, made.id) == made


async def test_a_name_can_change_its_own_case(client: Client) -> None:
    made = await factories.create_user(client, username="ada", email="ada@example.com")
    after = await update(client, made, "username", "email", username="ADA", email=made.email)
    assert after.username == "ADA"
    assert after.etag != made.etag


async def test_an_update_goes_through_with_the_current_etag(client: Client) -> None:
    made = await factories.create_user(client)
    after = await update(client, made, "full_name", full_name="Ada", etag=made.etag)
    again = await update(client, made, "full_name", full_name="Eve", etag=after.etag)
    assert again.full_name == "Eve"


@pytest.mark.parametrize("act", ["full_name", "", "delete"])
@pytest.mark.parametrize("garbage", [None, "garbage", "0"])
async def test_a_stale_etag_stops_the_change(client: Client, act: str, garbage: str | None) -> None:
    made = await factories.create_user(client)
    current = await update(client, made, "full_name", full_name="Ada")
    etag = garbage or made.etag
    if act == "delete":
        refusal = await refusal_of(
            client.users.DeleteUser(pb.DeleteUserRequest(id=made.id, etag=etag))
        )
    else:
        refusal = await refusal_of(update(client, made, *act.split(), full_name="Ada", etag=etag))
    assert refusal.what == stale("user", made.id)
    assert await get(client, made.id) == current


@pytest.mark.parametrize("etag", ["", "0"])
async def test_nobody_can_be_neither_changed_nor_removed(client: Client, etag: str) -> None:
    nobody = resources_pb2.User(id=7)
    for call in (
        update(client, nobody, "full_name", etag=etag),
        client.users.DeleteUser(pb.DeleteUserRequest(id=7, etag=etag)),
    ):
        assert (await refusal_of(call)).what == missing("user", 7)


# DeleteUser, DeactivateUsers, PurgeInactiveUsers


async def test_the_posts_of_a_deleted_user_go_too_and_the_tags_stay(client: Client) -> None:
    ada, bob = [await factories.create_user(client) for _ in range(2)]
    gone = [
        await factories.create_post(client, author_id=ada.id, tags=["Maths", "Notes"])
        for _ in range(3)
    ]
    left = await factories.create_post(client, author_id=bob.id, tags=["Maths"])
    await client.users.DeleteUser(pb.DeleteUserRequest(id=ada.id))
    ids = [*(post.id for post in gone), left.id]
    posts = await client.posts.BatchGetPosts(posts_pb2.BatchGetPostsRequest(ids=ids))
    assert list(posts.posts) == [summary_of(left)]
    assert list(posts.missing_ids) == ids[:3]
    tags = (await client.tags.ListTags(tags_pb2.ListTagsRequest())).tags
    assert [(tag.name, tag.post_count) for tag in tags] == [("Maths", 1), ("Notes", 0)]
    assert await post_counts(client) == [[(bob.id, bob.username, 1)]]
    statistics = pb.GetUserStatisticsRequest(user_id=ada.id)
    refusal = await refusal_of(client.users.GetUserStatistics(statistics))
    assert refusal.what == missing("user", ada.id)


@pytest.mark.parametrize("with_etag", [False, True])
async def test_a_deleted_user_is_gone_and_their_profile_too(
    client: Client, database_url: str, *, with_etag: bool
) -> None:
    made = await factories.create_user(client, profile=pb.NewProfile(bio="Counts."))
    await factories.create_user(client, profile=pb.NewProfile())
    request = pb.DeleteUserRequest(id=made.id, etag=made.etag if with_etag else "")
    assert await client.users.DeleteUser(request) == pb.DeleteUserResponse()
    for call in (
        client.users.GetUser(pb.GetUserRequest(id=made.id)),
        client.users.DeleteUser(request),
    ):
        assert (await refusal_of(call)).what == missing("user", made.id)
    profile = profiles_pb2.GetProfileRequest(user_id=made.id)
    refusal = await refusal_of(client.profiles.GetProfile(profile))
    assert refusal.what == missing("profile", made.id)
    async with looking_on(database_url) as onlooker:
        assert await onlooker.value("SELECT count(*) FROM profiles") == 1


async def test_the_name_of_a_deleted_user_is_free_but_their_id_is_not(client: Client) -> None:
    made = await factories.create_user(client, username="ada")
    await client.users.DeleteUser(pb.DeleteUserRequest(id=made.id))
    again = await factories.create_user(client, username="Ada")
    assert again.id > made.id


async def test_active_users_of_before_a_moment_are_deactivated(client: Client) -> None:
    old, inactive, new = [await factories.create_user(client) for _ in range(3)]
    inactive = await update(client, inactive, "is_active", is_active=False)
    request = pb.DeactivateUsersRequest(created_before=new.created_at, validate_only=True)
    assert (await client.users.DeactivateUsers(request)).affected_count == 1
    assert await get(client, old.id) == old

    request.validate_only = False
    assert (await client.users.DeactivateUsers(request)).affected_count == 1
    after = await get(client, old.id)
    assert not after.is_active
    assert after.etag != old.etag
    assert await get(client, inactive.id) == inactive
    assert await get(client, new.id) == new
    assert (await client.users.DeactivateUsers(request)).affected_count == 0


async def test_inactive_users_are_purged_with_their_profiles(
    client: Client, database_url: str
) -> None:
    active = await factories.create_user(client, profile=pb.NewProfile())
    for _ in range(2):
        made = await factories.create_user(client, profile=pb.NewProfile())
        await update(client, made, "is_active", is_active=False)
    request = pb.PurgeInactiveUsersRequest(validate_only=True)
    assert (await client.users.PurgeInactiveUsers(request)).affected_count == 2
    assert await count(client) == 3

    request.validate_only = False
    assert (await client.users.PurgeInactiveUsers(request)).affected_count == 2
    assert await list_pages(client, view=pb.USER_VIEW_PROFILE) == [[active]]
    async with looking_on(database_url) as onlooker:
        assert await onlooker.value("SELECT count(*) FROM profiles") == 1
    assert (await client.users.PurgeInactiveUsers(request)).affected_count == 0


# VerifyPassword, ChangePassword


@pytest.mark.parametrize("login", [{"email": "ADA@example.com"}, {"username": "aDA"}])
async def test_a_password_lets_its_user_in(client: Client, login: Mapping[str, str]) -> None:
    made = await factories.create_user(client, email="ada@example.com", username="ada")
    assert await verify(client, **login) == made


async def test_a_password_is_the_same_however_its_accents_are_typed(client: Client) -> None:
    made = await factories.create_user(client, username="ada", password="caf\u00e9 au lait")
    assert await verify(client, username="ada", password="cafe\u0301 au lait") == made


async def test_who_is_not_let_in_is_not_told_why(client: Client) -> None:
    known = await factories.create_user(client, username="ada", email="ada@example.com")
    inactive = await factories.create_user(client, username="bob", email="bob@example.com")
    await update(client, inactive, "is_active", is_active=False)
    wrong = "wrong horse"
    calls = [
        verify(client, username="nobody"),
        verify(client, email="nobody@example.com"),
        verify(client, username="ada", password=wrong),
        verify(client, email="ada@example.com", password=PASSWORD.upper()),
        verify(client, username="bob"),
        verify(client, email="bob@example.com", password=wrong),
        change_password(client, known.id, wrong),
        change_password(client, inactive.id, PASSWORD),
        change_password(client, 99, PASSWORD),
    ]
    first, *rest = [await refusal_of(call) for call in calls]
    assert first.what == UNKNOWN_LOGIN
    assert rest == [first] * len(rest)
    assert await verify(client, username="ada") == known


async def test_a_hash_of_other_parameters_is_renewed_when_the_password_is_shown(
    serve: Serve, database_url: str
) -> None:
    async with serve(database_url) as client:
        made = await factories.create_user(client, username="ada")
    async with serve(database_url, hash_time_cost=2) as client, looking_on(database_url) as db:
        hash_of_ada = "SELECT password_hash FROM users"
        old = await db.value(hash_of_ada)
        await refusal_of(verify(client, username="ada", password="wrong horse"))
        assert await db.value(hash_of_ada) == old

        assert await verify(client, username="ada") == made
        new = await db.value(hash_of_ada)
        assert ("t=1" in old, "t=2" in new) == (True, True)

        # It is still the same password, and the user has not changed.
        assert await verify(client, username="ada") == made
        assert await db.value(hash_of_ada) == new


async def test_a_changed_password_replaces_the_one_before(client: Client) -> None:
    made = await factories.create_user(client, username="ada")
    answer = await change_password(client, made.id, PASSWORD, "something else")
    assert answer == pb.ChangePasswordResponse()
    assert (await refusal_of(verify(client, username="ada"))).what == UNKNOWN_LOGIN
    after = await verify(client, username="ada", password="something else")
    assert after.id == made.id
    assert after.etag != made.etag


@pytest.mark.parametrize(
    ("retries", "told"),
    [(1, UNKNOWN_LOGIN), (0, (grpc.StatusCode.ABORTED, "byline/CONTENTION", ("", "")))],
)
async def test_of_two_who_change_a_password_at_once_one_does(
    serve: Serve, database_url: str, retries: int, told: What
) -> None:
    passwords = ("something else", "another thing")
    async with serve(database_url, contention_retries=retries) as client:
        made = await factories.create_user(client, username="ada")
        async with locked_user(database_url, made.id):
            racing = [
                asyncio.ensure_future(outcome_of(change_password(client, made.id, PASSWORD, each)))
                for each in passwords
            ]
            # Both have shown the old one.
            await until_waiting_for_a_lock(database_url, callers=2)
        outcomes = await asyncio.gather(*racing)
        refusals = [each for each in outcomes if isinstance(each, Refusal)]
        assert [each.what for each in refusals] == [told]
        winner, loser = passwords if outcomes[1] in refusals else reversed(passwords)
        assert (await verify(client, username="ada", password=winner)).id == made.id
        await refusal_of(verify(client, username="ada", password=loser))


# GetUserStatistics


async def test_statistics_say_what_a_users_posts_amount_to(client: Client) -> None:
    ada, bob = [await factories.create_user(client) for _ in range(2)]
    assert await statistics(client, ada) == pb.GetUserStatisticsResponse()
    first, published, last = [
        await factories.create_post(client, author_id=ada.id, published=number == 1)
        for number in range(3)
    ]
    await factories.create_post(client, author_id=bob.id, published=True)
    told = pb.GetUserStatisticsResponse(
        post_count=3,
        published_post_count=1,
        first_post_at=first.created_at,
        last_post_at=last.created_at,
    )
    assert await statistics(client, ada) == told

    await client.posts.DeletePost(posts_pb2.DeletePostRequest(id=first.id))
    await client.posts.UpdatePost(
        posts_pb2.UpdatePostRequest(post=resources_pb2.Post(id=last.id, published=True))
    )
    told.post_count, told.published_post_count = 2, 2
    told.first_post_at.CopyFrom(published.created_at)
    assert await statistics(client, ada) == told


async def test_nobody_has_no_statistics(client: Client) -> None:
    nobody = resources_pb2.User(id=7)
    assert (await refusal_of(statistics(client, nobody))).what == missing("user", 7)


# ListUserPostCounts


@pytest.mark.parametrize(
    ("order_by", "expected"),
    [
        ("", "Dora:1 ada:0 Bob:2 Cyd:0 eve:1"),
        ("id", "Dora:1 ada:0 Bob:2 Cyd:0 eve:1"),
        ("id desc", "eve:1 Cyd:0 Bob:2 ada:0 Dora:1"),
        ("post_count", "ada:0 Cyd:0 Dora:1 eve:1 Bob:2"),
        ("post_count desc", "Bob:2 eve:1 Dora:1 Cyd:0 ada:0"),
    ],
)
@pytest.mark.parametrize("page_size", [1, 2, 5])
async def test_post_counts_show_everyone_once_and_in_order(
    client: Client, order_by: str, expected: str, page_size: int
) -> None:
    for name, posts in (("Dora", 1), ("ada", 0), ("Bob", 2), ("Cyd", 0), ("eve", 1)):
        made = await factories.create_user(client, username=name)
        for _ in range(posts):
            await factories.create_post(client, author_id=made.id)
    pages = await post_counts(client, order_by=order_by, page_size=page_size)
    assert [f"{name}:{posts}" for page in pages for _, name, posts in page] == expected.split()
    assert {len(page) for page in pages[:-1]} <= {page_size}
    assert pages[-1]


async def test_post_counts_follow_what_is_written_renamed_and_deleted(client: Client) -> None:
    ada, bob = [await factories.create_user(client) for _ in range(2)]
    posts = [await factories.create_post(client, author_id=ada.id) for _ in range(2)]
    await client.posts.DeletePost(posts_pb2.DeletePostRequest(id=posts[0].id))
    await update(client, ada, "username", username="countess")
    expected = [[(ada.id, "countess", 1), (bob.id, bob.username, 0)]]
    assert await post_counts(client) == expected
    assert (await get(client, ada.id, view=pb.USER_VIEW_FULL)).post_count == 1


async def test_nobody_is_an_empty_page_of_counts(client: Client) -> None:
    assert await post_counts(client) == [[]]


# ListAuthors


async def test_authors_are_those_who_have_published_each_once_and_by_id(client: Client) -> None:
    users = [await factories.create_user(client) for _ in range(6)]
    published: dict[int, resources_pb2.Post] = {}
    for number, is_published in (
        (4, True),
        (0, True),
        (1, False),
        (2, True),
        (2, True),
        (0, False),
    ):
        post = await factories.create_post(
            client, author_id=users[number].id, published=is_published
        )
        if is_published:
            published[number] = post
    for page_size in (1, 2, 3, 4):
        pages = await author_pages(client, page_size=page_size)
        assert [user for page in pages for user in page] == [users[0], users[2], users[4]]
        assert {len(page) for page in pages[:-1]} <= {page_size}
        assert pages[-1]

    hidden = resources_pb2.Post(id=published[0].id)
    mask = FieldMask(paths=["published"])
    await client.posts.UpdatePost(posts_pb2.UpdatePostRequest(post=hidden, update_mask=mask))
    await client.posts.DeletePost(posts_pb2.DeletePostRequest(id=published[2].id))
    assert await author_pages(client) == [[users[2], users[4]]]


async def test_an_author_who_is_inactive_is_an_author_still(client: Client) -> None:
    post = await factories.create_post(client, published=True)
    inactive = await update(client, post.author, "is_active", is_active=False)
    assert await author_pages(client) == [[inactive]]


async def test_a_page_token_of_another_list_is_refused(client: Client) -> None:
    for _ in range(2):
        await factories.create_post(client, published=True)
    users = await client.users.ListUsers(pb.ListUsersRequest(page_size=1))
    counts = await client.users.ListUserPostCounts(
        pb.ListUserPostCountsRequest(page_size=1, order_by="post_count")
    )
    authors = await client.users.ListAuthors(pb.ListAuthorsRequest(page_size=1))
    calls: list[Awaitable[object]] = [
        *(
            client.users.ListAuthors(pb.ListAuthorsRequest(page_token=each.next_page_token))
            for each in (users, counts)
        ),
        client.users.ListUsers(pb.ListUsersRequest(page_token=authors.next_page_token)),
        *(
            client.users.ListUserPostCounts(
                pb.ListUserPostCountsRequest(page_token=token, order_by=order_by)
            )
            for token, order_by in (
                (authors.next_page_token, ""),
                (users.next_page_token, "id"),
                (counts.next_page_token, ""),
                (counts.next_page_token, "post_count desc"),
            )
        ),
    ]
    for call in calls:
        refusal = await refusal_of(call)
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refusal.fields == ("page_token",)


@pytest.mark.parametrize(
    ("page_size", "rows"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (10**9, 1000)]
)
async def test_a_page_of_authors_or_counts_has_50_unless_asked_and_1000_at_most(
    client: Client, db: Database, page_size: int, rows: int
) -> None:
    ids = await factories.add_many_users(db, 1001)
    await factories.add_posts_of(db, ids, published=True)
    authors = await client.users.ListAuthors(pb.ListAuthorsRequest(page_size=page_size))
    counts = await client.users.ListUserPostCounts(
        pb.ListUserPostCountsRequest(page_size=page_size)
    )
    assert (len(authors.users), len(counts.counts)) == (rows, rows)
    assert all((authors.next_page_token, counts.next_page_token))


async def get(
    client: Client, user_id: int, view: pb.UserView.ValueType = pb.USER_VIEW_BASIC
) -> resources_pb2.User:
    return (await client.users.GetUser(pb.GetUserRequest(id=user_id, view=view))).user


async def count(client: Client, **where: Any) -> int:  # noqa: ANN401 - any field of UserFilter
    request = pb.CountUsersRequest(filter=pb.UserFilter(**where))
    return (await client.users.CountUsers(request)).count


async def list_pages(client: Client, **asked: Any) -> list[list[resources_pb2.User]]:  # noqa: ANN401 - any field of ListUsersRequest
    """Follows a list to its end."""
    request = pb.ListUsersRequest(**asked)
    pages = []
    while True:
        answer = await client.users.ListUsers(request)
        pages.append(list(answer.users))
        request.page_token = answer.next_page_token
        if not request.page_token:
            return pages


async def statistics(client: Client, user: resources_pb2.User) -> pb.GetUserStatisticsResponse:
    return await client.users.GetUserStatistics(pb.GetUserStatisticsRequest(user_id=user.id))


async def post_counts(client: Client, **asked: Any) -> list[list[tuple[int, str, int]]]:  # noqa: ANN401 - any field of ListUserPostCountsRequest
    """Follows the list of how many posts everyone has to its end."""
    request = pb.ListUserPostCountsRequest(**asked)
    pages = []
    while True:
        answer = await client.users.ListUserPostCounts(request)
        pages.append([(each.user_id, each.username, each.post_count) for each in answer.counts])
        request.page_token = answer.next_page_token
        if not request.page_token:
            return pages


async def author_pages(client: Client, page_size: int = 0) -> list[list[resources_pb2.User]]:
    """Follows the list of authors to its end."""
    request = pb.ListAuthorsRequest(page_size=page_size)
    pages = []
    while True:
        answer = await client.users.ListAuthors(request)
        pages.append(list(answer.users))
        request.page_token = answer.next_page_token
        if not request.page_token:
            return pages


async def update(
    client: Client,
    user: resources_pb2.User,
    *mask: str,
    **sent: Any,  # noqa: ANN401 - any field of User
) -> resources_pb2.User:
    request = pb.UpdateUserRequest(
        user=resources_pb2.User(id=user.id, **sent), update_mask=FieldMask(paths=mask)
    )
    return (await client.users.UpdateUser(request)).user


async def verify(client: Client, password: str = PASSWORD, **login: str) -> resources_pb2.User:
    request = pb.VerifyPasswordRequest(password=password, **login)
    return (await client.users.VerifyPassword(request)).user


async def change_password(
    client: Client, user_id: int, current: str, new: str = PASSWORD
) -> pb.ChangePasswordResponse:
    return await client.users.ChangePassword(
        pb.ChangePasswordRequest(id=user_id, current_password=current, new_password=new)
    )


def nanoseconds(moment: Timestamp) -> int:
    return moment.seconds * NANOS + moment.nanos
