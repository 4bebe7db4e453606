"""Rows to messages, and parts of requests to plain values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from byline.v1 import posts_pb2, resources_pb2, tags_pb2, users_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from service import convert
from service.errors import InvalidRequest
from storage import posts, tags
from storage.authors import Recent, Statistics
from storage.models import Role
from storage.moments import EPOCH, FIRST, LAST, Moment, datetime_of, moment_of
from storage.posts import PostRow
from storage.profiles import ProfileRow
from storage.tags import TagRow
from storage.users import Filter, Key, UserRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

LAST_SECOND = 253_402_300_799
MOMENT = moment_of(datetime(2026, 2, 3, 4, 5, 6, 789_012, UTC))
MOMENTS = [EPOCH, EPOCH - 1, EPOCH + 1, MOMENT, FIRST, LAST]
PROFILE = ProfileRow(7, "Counts.", "https://example.com/ada", MOMENT)
ADA = UserRow(7, "ada@example.com", "ada", "Ada", Role.ADMIN, True, EPOCH, MOMENT, PROFILE)  # noqa: FBT003 - a row's order
TAG = TagRow(3, "Maths", MOMENT, 0)
SUMMARY = PostRow(5, 7, "Note G", True, EPOCH, MOMENT, EPOCH + 1)  # noqa: FBT003 - a row's order
FULL = SUMMARY._replace(content="It weaves.", author=ADA._replace(profile=None), tags=[TAG])


def unfilled(message: Message) -> set[str]:
    """The fields that a message leaves out. The epoch has no fields, but it is there."""
    return set(message.DESCRIPTOR.fields_by_name) - {each.name for each, _ in message.ListFields()}


def test_every_field_of_a_user_is_filled() -> None:
    message = convert.to_user(ADA, Recent({7: 21}, {7: [SUMMARY]}))
    assert unfilled(message) == set()
    assert (message.post_count, [post.id for post in message.newest_posts]) == (21, [5])
    assert (message.id, message.email, message.username) == (7, "ada@example.com", "ada")
    assert (message.full_name, message.role, message.is_active) == ("Ada", 2, True)
    assert (message.etag, message.profile.user_id) == (convert.to_etag(MOMENT), 7)
    assert (message.created_at, message.updated_at.ToMicroseconds()) == (Timestamp(), MOMENT)


def test_every_field_of_a_post_is_filled() -> None:
    message = convert.to_post(FULL)
    assert unfilled(message) == set()
    assert (message.id, message.author_id, message.title) == (5, 7, "Note G")
    assert (message.content, message.published) == ("It weaves.", True)
    assert (message.created_at, message.updated_at.ToMicroseconds()) == (Timestamp(), MOMENT)
    assert message.published_at.ToMicroseconds() == EPOCH + 1
    assert message.etag == convert.to_etag(MOMENT)
    assert message.author.username == "ada"
    assert [tag.name for tag in message.tags] == ["Maths"]


def test_every_field_of_a_tag_is_filled() -> None:
    message = convert.to_tag(TAG)
    assert unfilled(message) == set()
    assert (message.id, message.name, message.post_count) == (3, "Maths", 0)
    assert message.etag == convert.to_etag(MOMENT)


def test_every_field_of_statistics_is_filled() -> None:
    message = convert.to_statistics(Statistics(3, 2, EPOCH, MOMENT))
    assert unfilled(message) == set()
    assert (message.post_count, message.published_post_count) == (3, 2)
    assert message.last_post_at.ToMicroseconds() == MOMENT


def test_every_field_of_a_profile_is_filled() -> None:
    message = convert.to_profile(PROFILE)
    assert len(message.ListFields()) == len(message.DESCRIPTOR.fields)
    assert (message.user_id, message.bio) == (7, "Counts.")
    assert message.avatar_url == "https://example.com/ada"


def test_what_a_row_does_not_have_its_message_does_not_either() -> None:
    message = convert.to_user(ADA._replace(full_name=None, profile=None))
    assert not message.HasField("full_name")
    assert not message.HasField("profile")
    assert convert.to_user(ADA._replace(full_name="")).HasField("full_name")
    assert not message.HasField("post_count")
    idle = convert.to_user(ADA, Recent({}, {}))
    assert (idle.HasField("post_count"), idle.post_count, list(idle.newest_posts)) == (True, 0, [])
    draft = convert.to_post(SUMMARY._replace(published=False, published_at=None))
    assert unfilled(draft) == {"content", "published", "published_at", "author", "tags"}
    assert not convert.to_tag(TAG._replace(post_count=None)).HasField("post_count")
    assert unfilled(convert.to_statistics(Statistics(0, 0, None, None))) == {
        *("post_count", "published_post_count", "first_post_at", "last_post_at")
    }


@pytest.mark.parametrize("role", Role)
def test_every_role_has_a_number_in_the_contract(role: Role) -> None:
    number = convert.to_user(ADA._replace(role=role)).role
    assert resources_pb2.UserRole.Name(number) == f"USER_ROLE_{role.name}"
    assert convert.from_role(number) is role


def test_every_number_of_the_contract_is_a_role_but_the_unspecified() -> None:
    roles = [convert.from_role(number) for number in resources_pb2.UserRole.values()]
    assert roles == [None, *Role]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_moment_comes_through_to_the_microsecond(moment: Moment) -> None:
    message = convert.to_timestamp(moment)
    expected = Timestamp()
    expected.FromDatetime(datetime_of(moment))
    assert message == expected
    assert convert.from_timestamp(message, "field") == moment


@pytest.mark.parametrize(
    ("message", "down", "up"),
    [
        (Timestamp(nanos=1), EPOCH, EPOCH + 1),
        (Timestamp(nanos=999), EPOCH, EPOCH + 1),
        (Timestamp(nanos=1000), EPOCH + 1, EPOCH + 1),
        (Timestamp(seconds=-1, nanos=999_999_999), EPOCH - 1, EPOCH),
        (Timestamp(seconds=LAST_SECOND, nanos=999_999_999), LAST, LAST),
    ],
)
def test_a_moment_between_two_microseconds_goes_to_the_one_asked_for(
    message: Timestamp, down: Moment, up: Moment
) -> None:
    assert convert.from_timestamp(message, "field") == down
    assert convert.from_timestamp(message, "field", round_up=True) == up


@pytest.mark.parametrize("nanos", [-1, -(2**31), 10**9, 2**31 - 1])
def test_a_second_has_no_nanoseconds_but_its_own(nanos: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        convert.from_timestamp(Timestamp(nanos=nanos), "created_before")
    assert [violation.field for violation in refused.value.violations] == ["created_before"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_etag_is_of_one_moment(moment: Moment) -> None:
    etag = convert.to_etag(moment)
    assert convert.from_etag(etag) == moment
    others = [other for other in MOMENTS if other != moment]
    assert etag not in map(convert.to_etag, others)


def test_no_etag_is_no_moment() -> None:
    assert convert.from_etag("") is None


@pytest.mark.parametrize(
    "garbage",
    [
        *("{}x", "0{}", "0x{}", " {}", "{} ", "+{}", "-{}", "{}.0", "_{}"),
        *("garbage", "\0", "\N{OWL}", "f" * 64, "-" + "f" * 63),
    ],
)
def test_what_is_no_etag_matches_nothing(garbage: str) -> None:
    moment = convert.from_etag(garbage.format(convert.to_etag(MOMENT)))
    assert moment is not None
    assert moment != MOMENT


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ({"id": 7}, Key("id", 7)),
        ({"email": "Ada@x.org"}, Key("email", "Ada@x.org")),
        ({"username": "Ada"}, Key("username", "Ada")),
    ],
)
def test_a_key_is_the_one_that_is_given(key: dict[str, Any], expected: Key) -> None:
    assert convert.from_key(users_pb2.GetUserRequest(**key)) == expected
    if "id" not in key:
        assert convert.from_login(users_pb2.VerifyPasswordRequest(**key)) == expected


def test_a_key_of_a_tag_is_the_one_that_is_given() -> None:
    by_id, by_name = tags_pb2.GetTagRequest(id=3), tags_pb2.GetTagRequest(name=" Maths")
    assert convert.from_tag_key(by_id) == tags.Key("id", 3)
    assert convert.from_tag_key(by_name) == tags.Key("name", " Maths")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Filter()),
        ({"is_active": False}, Filter(is_active=False)),
        ({"is_active": True}, Filter(is_active=True)),
        ({"role": resources_pb2.USER_ROLE_ADMIN}, Filter(role=Role.ADMIN)),
        ({"query": "%"}, Filter(query="%")),
        ({"created_after": Timestamp()}, Filter(created_after=EPOCH)),
        ({"created_before": Timestamp()}, Filter(created_before=EPOCH)),
        ({"created_after": Timestamp(nanos=1)}, Filter(created_after=EPOCH)),
        ({"created_before": Timestamp(nanos=1)}, Filter(created_before=EPOCH + 1)),
    ],
)
def test_a_filter_has_the_conditions_that_are_given(
    given: dict[str, Any], expected: Filter
) -> None:
    assert convert.from_user_filter(users_pb2.UserFilter(**given)) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, posts.Filter()),
        ({"author_id": 7}, posts.Filter(author_id=7)),
        ({"author_id": 0}, posts.Filter()),
        ({"published": False}, posts.Filter(published=False)),
        ({"published": True}, posts.Filter(published=True)),
        ({"tag": " Maths"}, posts.Filter(tag=" Maths")),
        ({"query": "%"}, posts.Filter(query="%")),
        ({"created_after": Timestamp(nanos=1)}, posts.Filter(created_after=EPOCH)),
        ({"created_before": Timestamp(nanos=1)}, posts.Filter(created_before=EPOCH + 1)),
    ],
)
def test_a_filter_of_posts_has_the_conditions_that_are_given(
    given: dict[str, Any], expected: posts.Filter
) -> None:
    assert convert.from_post_filter(posts_pb2.PostFilter(**given)) == expected


@pytest.mark.parametrize("field", ["created_after", "created_before"])
def test_a_moment_of_a_filter_is_refused_by_its_path(field: str) -> None:
    where = users_pb2.UserFilter(**{field: Timestamp(nanos=-1)})  # type: ignore[arg-type] # a moment's name
    with pytest.raises(InvalidRequest) as refused:
        convert.from_user_filter(where)
    assert [violation.field for violation in refused.value.violations] == [f"filter.{field}"]


@pytest.mark.parametrize(
    ("sent", "mask", "expected"),
    [
        ({}, [], {}),
        ({"id": 7, "etag": "x"}, [], {}),
        ({"username": "ada"}, [], {"username": "ada"}),
        ({"username": "ada", "email": "x"}, ["email"], {"email": "x"}),
        ({"role": 2}, ["role"], {"role": Role.ADMIN}),
        ({"is_active": False}, [], {}),
        ({}, ["is_active"], {"is_active": False}),
        ({"full_name": ""}, [], {"full_name": ""}),
        ({}, ["full_name"], {"full_name": None}),
        (
            {"email": "x", "username": "ada", "role": 1},
            ["*"],
            {
                "email": "x",
                "username": "ada",
                "full_name": None,
                "role": Role.USER,
                "is_active": False,
            },
        ),
    ],
)
def test_a_mask_names_what_changes(
    sent: dict[str, Any], mask: Sequence[str], expected: dict[str, object]
) -> None:
    user = resources_pb2.User(**sent)
    assert convert.user_changes(user, FieldMask(paths=mask)) == expected


@pytest.mark.parametrize(
    ("sent", "mask", "expected"),
    [
        ({"id": 5, "author_id": 7, "etag": "x"}, [], {}),
        ({"title": "New", "published": True}, [], {"title": "New", "published": True}),
        ({"title": "New", "author_id": 8}, ["title"], {"title": "New"}),
        ({"tags": [{"name": "a", "id": 3}, {"name": " A "}]}, [], {"tags": ["a", " A "]}),
        (
            {"title": "New"},
            ["*"],
            {"title": "New", "content": "", "published": False, "tags": []},
        ),
        ({}, ["tags", "content", "published"], {"content": "", "published": False, "tags": []}),
    ],
)
def test_a_mask_names_what_changes_of_a_post(
    sent: dict[str, Any], mask: Sequence[str], expected: dict[str, object]
) -> None:
    post = resources_pb2.Post(**sent)
    assert convert.post_changes(post, FieldMask(paths=mask)) == expected


@pytest.mark.parametrize(
    "mask", [["bio.part"], ["bio", "avatar_url.part"], ["*", "bio.part"], ["*.bio"], ["unknown"]]
)
def test_a_part_of_a_field_cannot_be_changed(mask: Sequence[str]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        convert.profile_changes(resources_pb2.Profile(bio="x"), FieldMask(paths=mask))
    assert [violation.field for violation in refused.value.violations] == ["update_mask"]
