"""Row -> message, and parts of requests -> plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from byline.v1 import posts_pb2, resources_pb2, tags_pb2, users_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from service.errors import InvalidRequest, Violation
from storage import authors, posts, tags, users
from storage.models import Role
from storage.moments import FIRST, LAST, SECOND
from storage.users import Key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from google.protobuf.field_mask_pb2 import FieldMask
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer as Messages
    from google.protobuf.message import Message

    from storage.moments import Moment
    from storage.posts import PostRow
    from storage.profiles import ProfileRow
    from storage.tags import TagRow
    from storage.users import UserRow

Row = TypeVar("Row")

_NANOS_PER_SECOND = 1_000_000_000
_NANOS_PER_MICROSECOND = 1_000

_ROLE_MESSAGES = {
    Role.USER: resources_pb2.USER_ROLE_USER,
    Role.ADMIN: resources_pb2.USER_ROLE_ADMIN,
    Role.MODERATOR: resources_pb2.USER_ROLE_MODERATOR,
}
_ROLES = {number: role for role, number in _ROLE_MESSAGES.items()}


def to_user(row: UserRow, more: authors.Recent | None = None) -> resources_pb2.User:
    """Returns the message of a user, with what the full view adds if it is given."""
    message = resources_pb2.User()
    _fill_user(message, row, more)
    return message


def to_profile(row: ProfileRow) -> resources_pb2.Profile:
    """Returns the message of a profile."""
    message = resources_pb2.Profile()
    _fill_profile(message, row)
    return message


def to_post(row: PostRow) -> resources_pb2.Post:
    """Returns the message of a post, with what was loaded of it."""
    message = resources_pb2.Post()
    _fill_post(message, row)
    return message


def to_tag(row: TagRow) -> resources_pb2.Tag:
    """Returns the message of a tag."""
    message = resources_pb2.Tag()
    _fill_tag(message, row)
    return message


def add_users(
    messages: Messages[resources_pb2.User],
    rows: Iterable[UserRow],
    more: authors.Recent | None = None,
) -> None:
    """Adds the messages of users to those of a response, with what the full view adds if given."""
    for row in rows:
        _fill_user(messages.add(), row, more)


def add_posts(messages: Messages[resources_pb2.Post], rows: Iterable[PostRow]) -> None:
    """Adds the messages of posts to those of a response."""
    for row in rows:
        _fill_post(messages.add(), row)


def add_tags(messages: Messages[resources_pb2.Tag], rows: Iterable[TagRow]) -> None:
    """Adds the messages of tags to those of a response."""
    for row in rows:
        _fill_tag(messages.add(), row)


# A message is filled where it is to be: one that is given to another is copied there. A row is
# taken apart at once, which costs less than to ask it for each field by its name.


def _fill_user(message: resources_pb2.User, row: UserRow, more: authors.Recent | None) -> None:
    (
        message.id,
        message.email,
        message.username,
        full_name,
        role,
        message.is_active,
        created_at,
        updated_at,
        profile,
    ) = row
    if full_name is not None:
        message.full_name = full_name
    message.role = _ROLE_MESSAGES[role]
    set_timestamp(message.created_at, created_at)
    set_timestamp(message.updated_at, updated_at)
    message.etag = to_etag(updated_at)
    if profile is not None:
        _fill_profile(message.profile, profile)
    if more is not None:
        message.post_count = more.counts.get(row.id, 0)
        add_posts(message.newest_posts, more.newest.get(row.id, ()))


def _fill_profile(message: resources_pb2.Profile, row: ProfileRow) -> None:
    message.user_id, message.bio, message.avatar_url, updated_at = row
    message.etag = to_etag(updated_at)


def _fill_post(message: resources_pb2.Post, row: PostRow) -> None:
    (
        message.id,
        message.author_id,
        message.title,
        message.published,
        created_at,
        updated_at,
        published_at,
        message.content,
        author,
        tags,
    ) = row
    set_timestamp(message.created_at, created_at)
    set_timestamp(message.updated_at, updated_at)
    message.etag = to_etag(updated_at)
    if published_at is not None:
        set_timestamp(message.published_at, published_at)
    if author is not None:
        _fill_user(message.author, author, None)
    add_tags(message.tags, tags)


def _fill_tag(message: resources_pb2.Tag, row: TagRow) -> None:
    message.id, message.name, updated_at, post_count = row
    if post_count is not None:
        message.post_count = post_count
    message.etag = to_etag(updated_at)


def to_statistics(row: authors.Statistics) -> users_pb2.GetUserStatisticsResponse:
    """Returns the message of what a user's posts amount to."""
    return users_pb2.GetUserStatisticsResponse(
        post_count=row.post_count,
        published_post_count=row.published_post_count,
        first_post_at=None if row.first_post_at is None else to_timestamp(row.first_post_at),
        last_post_at=None if row.last_post_at is None else to_timestamp(row.last_post_at),
    )


def to_timestamp(moment: Moment) -> Timestamp:
    """Returns the message of a moment."""
    message = Timestamp()
    set_timestamp(message, moment)
    return message


def set_timestamp(message: Timestamp, moment: Moment) -> None:
    """Writes a moment where it is to be, which costs less than a message that is copied there."""
    message.seconds, microseconds = divmod(moment, SECOND)
    message.nanos = microseconds * _NANOS_PER_MICROSECOND


def to_etag(updated_at: Moment) -> str:
    """Returns the etag of a row that last changed at this moment."""
    return f"{updated_at:x}"


def from_etag(etag: str) -> Moment | None:
    """Returns when a row with this etag last changed; None when no etag is given.

    What is no etag at all gives a moment at which nothing ever changed.
    """
    if not etag:
        return None
    try:
        moment = int(etag, 16)
    except ValueError:
        return FIRST
    # A number can be written in more ways than one, an etag cannot.
    return moment if FIRST <= moment <= LAST and to_etag(moment) == etag else FIRST


def from_timestamp(message: Timestamp, field: str, *, round_up: bool = False) -> Moment:
    """Returns the moment of a message, to the microsecond.

    Args:
        message: seconds within the years 1 to 9999, which the contract's rules have checked.
        field: whose it is, for the error.
        round_up: which microsecond stands for a moment between two.

    Raises:
        InvalidRequest: when the nanoseconds are more than a second, or negative.
    """
    if not 0 <= message.nanos < _NANOS_PER_SECOND:
        raise InvalidRequest(Violation(field, "nanos must be between 0 and 999,999,999"))
    microseconds, rest = divmod(message.nanos, _NANOS_PER_MICROSECOND)
    if rest and round_up:
        microseconds += 1
    # What is rounded up into the year 10000 is not.
    return min(message.seconds * SECOND + microseconds, LAST)


def from_role(role: resources_pb2.UserRole.ValueType) -> Role | None:
    """Returns the role; None when it is not stated."""
    return _ROLES.get(role)


def from_key(request: users_pb2.GetUserRequest) -> Key:
    """Returns how the request names a user."""
    match request.WhichOneof("key"):
        case "email":
            return Key("email", request.email)
        case "username":
            return Key("username", request.username)
        case _:
            return Key("id", request.id)


def from_login(request: users_pb2.VerifyPasswordRequest) -> Key:
    """Returns how the request names the user who logs in."""
    if request.WhichOneof("login") == "username":
        return Key("username", request.username)
    return Key("email", request.email)


def from_tag_key(request: tags_pb2.GetTagRequest) -> tags.Key:
    """Returns how the request names a tag."""
    if request.WhichOneof("key") == "name":
        return tags.Key("name", request.name)
    return tags.Key("id", request.id)


def from_user_filter(message: users_pb2.UserFilter) -> users.Filter:
    """Returns the conditions of a filter."""
    after, before = _created(message)
    return users.Filter(
        is_active=message.is_active if message.HasField("is_active") else None,
        role=from_role(message.role),
        query=message.query,
        created_after=after,
        created_before=before,
    )


def from_post_filter(message: posts_pb2.PostFilter) -> posts.Filter:
    """Returns the conditions of a filter."""
    after, before = _created(message)
    return posts.Filter(
        author_id=message.author_id or None,
        published=message.published if message.HasField("published") else None,
        tag=message.tag,
        query=message.query,
        created_after=after,
        created_before=before,
    )


def _created(
    message: users_pb2.UserFilter | posts_pb2.PostFilter,
) -> tuple[Moment | None, Moment | None]:
    """The moments after and before which a filter's things were created; None where not set."""
    after = before = None
    if message.HasField("created_after"):
        after = from_timestamp(message.created_after, "filter.created_after")
    if message.HasField("created_before"):
        before = from_timestamp(message.created_before, "filter.created_before", round_up=True)
    return after, before


def in_order(ids: Sequence[int], found: Mapping[int, Row]) -> tuple[list[Row], list[int]]:
    """Returns what was found in the order asked, and the ids of what was not, each once."""
    missing = [each for each in dict.fromkeys(ids) if each not in found]
    return [found[each] for each in ids if each in found], missing


def user_changes(user: resources_pb2.User, mask: FieldMask) -> dict[str, object]:
    """Returns the new values that an update of a user names, by field.

    Raises:
        InvalidRequest: when the mask names a part of a field.
    """
    values = changes(user, mask, ("email", "username", "full_name", "role", "is_active"))
    if "role" in values:
        values["role"] = from_role(user.role)
    return values


def profile_changes(profile: resources_pb2.Profile, mask: FieldMask) -> dict[str, object]:
    """Returns the new values that an update of a profile names, by field.

    Raises:
        InvalidRequest: when the mask names a part of a field.
    """
    return changes(profile, mask, ("bio", "avatar_url"))


def post_changes(post: resources_pb2.Post, mask: FieldMask) -> dict[str, object]:
    """Returns the new values that an update of a post names, by field; of tags the names.

    Raises:
        InvalidRequest: when the mask names a part of a field.
    """
    values = changes(post, mask, ("title", "content", "published", "tags"))
    if "tags" in values:
        values["tags"] = [tag.name for tag in post.tags]
    return values


def changes(message: Message, mask: FieldMask, mutable: Sequence[str]) -> dict[str, object]:
    """Returns the new values that an update names, by field.

    By AIP-134: `*` names every mutable field, and an empty mask those that are set.

    Args:
        message: the resource with its new values.
        mask: the fields to change.
        mutable: the fields that may be changed.

    Raises:
        InvalidRequest: when the mask names a part of a field.
    """
    set_fields = {field.name for field, _ in message.ListFields()}
    paths = set(mask.paths) or set_fields.intersection(mutable)
    if "*" in paths:
        paths = paths.difference("*").union(mutable)
    if not paths.issubset(mutable):
        raise InvalidRequest(Violation("update_mask", "names a part of a field"))
    return {name: _value(message, name) for name in mutable if name in paths}


def _value(message: Message, name: str) -> object:
    """A field's value; None for an optional one that is not set."""
    if message.DESCRIPTOR.fields_by_name[name].has_presence and not message.HasField(name):
        return None
    value: object = getattr(message, name)
    return value
