"""Every kind of wrong request that every RPC can get: how it is refused, and that nothing changes.

An RPC, or a field of one, that has no cases fails the first test. Its line goes into RPCS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from byline.v1 import (
    credits_pb2,
    posts_pb2,
    profiles_pb2,
    resources_pb2,
    tags_pb2,
    users_pb2,
)
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from service import pagination
from service.passwords import Passwords
from storage import posts, profiles
from storage.database import Database
from storage.keyset import Cursor
from storage.models import Base
from storage.posts import NewPost
from tests import factories
from tests.clients import outcome_of, refusal_of, rpcs
from tests.emptying import empty_by
from tests.service.bad_requests import (
    INSUFFICIENT,
    MAX_INT64,
    NOT_FOUND,
    NOT_PENDING,
    OVERFLOW,
    REFUSED,
    SERVED,
    TOO_LARGE,
    UNKNOWN_LOGIN,
    Case,
    Code,
    Kind,
    Rpc,
    Variant,
    amount,
    cases,
    enum,
    etag,
    flag,
    ignored_number,
    lifetime,
    mask,
    message,
    moment,
    one_of,
    optional_id,
    page_size,
    page_token,
    refused,
    request_id,
    row_id,
    row_ids,
    tag_names,
    text,
    uncovered,
)
from tests.service.writes import WRITES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from service.config import Settings
    from service.pagination import ListRequest
    from tests.clients import Client
    from tests.conftest import Serve
    from tests.onlookers import Onlooker

# Who there is: ada, who has a profile, a post with two tags, and credits, of which some are held
# for cleo, who has some too; and bob, who is inactive.
ADA, BOB, CLEO = 1, 2, 3
GRANT, HOLD = 1, 3
POST, MATHS, NOTES = 1, 1, 2
EMAIL, USERNAME, URL = "ada@example.com", "ada", "https://example.com/ada.png"
LONG_EMAIL = "x" * 243 + "@example.com"
LONG_URL = "https://example.com/" + "x" * 480

email = text(
    255,
    least=1,
    longest=LONG_EMAIL,
    owl=REFUSED,
    refuse=("ada", "ada@", "@example.com", "a da@example.com", "Ada <ada@example.com>", "a@b@c.de"),
    serve=("ADA@EXAMPLE.ORG", "a@localhost", "o'hara+x@example.com"),
)
username = text(
    50,
    least=1,
    refuse=(" ada", "ada ", "\xa0ada", "a\nb", "a\tb", "a\x7fb", "a\u2028b", " "),
    serve=("A", "a b", "名前", "e\u0301", "\u202eada", "ꟹ", "%", "' OR 1=1 --"),
)
full_name = text(100, refuse=("a\nb", "\x7f"), serve=(" ", "Ada, Countess of Lovelace"))
bio = text(10_000, serve=("a\nb\tc", "<script>"))
avatar_url = text(
    500,
    longest=LONG_URL,
    owl=REFUSED,
    refuse=("ftp://example.com", "javascript:alert(1)", "//example.com", "https://exa mple.com"),
    serve=("http://example.com", "https://[::1]:8080/?q=%20#f"),
)
new_password = text(256, least=8)
role = enum(last=3)
user_view = enum(last=3)
post_view = enum(last=2)
memo = text(
    200,
    refuse=("a\nb", "\x7f", "\x85"),
    serve=(" ", "名前", "a\u2028b", "' OR 1=1 --"),
)
title = text(
    200,
    least=1,
    refuse=(" ", "\u2003\u3000", "a\nb", "\x7f", "\x85", "\r\n"),
    serve=(" a ", "名前", "e\u0301", "a\u2028b", "\u202ea", "%", "' OR 1=1 --"),
)
content = text(100_000, serve=("a\nb\tc", "<script>", "\x7f", "\u2028"))
tag_name = text(
    50,
    least=1,
    refuse=(" ", "\u3000", "a\nb", "\x85", "x" + " " * 200),
    serve=(" a\u2003", f"{'x' * 50} ", "maths", "MATHS ", "名前", "a  b"),
)
an_ignored_moment = message(ignored={"no moment": Timestamp(nanos=-1)})
user_filter = {
    "filter": message(),
    "filter.is_active": flag(),
    "filter.role": role,
    "filter.query": text(255, serve=("%", "_", "\\", "' OR 1=1 --")),
    "filter.created_after": moment(),
    "filter.created_before": moment(),
}
post_filter = {
    "filter": message(),
    "filter.author_id": optional_id(),
    "filter.published": flag(),
    "filter.tag": text(200, serve=(" maths ", " ", "%", "' OR 1=1 --")),
    "filter.query": text(200, serve=("%", "_", "\\", "' OR 1=1 --")),
    "filter.created_after": moment(),
    "filter.created_before": moment(),
}


def a_key(most: int) -> Kind:
    """An email or a username that somebody is looked up by."""
    return text(most, least=1, missing=refused("key"), legal=NOT_FOUND)


def a_login(most: int) -> Kind:
    """An email or a username that somebody logs in with."""
    return text(most, least=1, missing=refused("login"), legal=UNKNOWN_LOGIN)


def token(request: ListRequest) -> str:
    """The token of the page after the first row of a list in the order of numbers or names."""
    is_by_name = getattr(request, "order_by", "").startswith(("username", "title", "name"))
    return pagination.token(Cursor("a" if is_by_name else 1, 1), request)


def users_token(**asked: object) -> str:
    return token(users_pb2.ListUsersRequest(**asked))  # type: ignore[arg-type] # any of its fields


def posts_token(**asked: object) -> str:
    return token(posts_pb2.ListPostsRequest(**asked))  # type: ignore[arg-type] # any of its fields


def tags_token(**asked: str) -> str:
    return token(tags_pb2.ListTagsRequest(**asked))  # type: ignore[arg-type] # any of its fields


def transfers_token(**asked: object) -> str:
    return token(credits_pb2.ListTransfersRequest(**asked))  # type: ignore[arg-type] # any of its fields


def counts_token(**asked: str) -> str:
    return token(users_pb2.ListUserPostCountsRequest(**asked))  # type: ignore[arg-type] # any of its fields


def post_tags() -> Kind:
    """The tags of a post in an update, of which only the names count."""
    names = [resources_pb2.Tag(name=f"tag {number}") for number in range(51)]
    a_tag, nothing = resources_pb2.Tag(name="a"), resources_pb2.Tag(id=MATHS)
    wrong = {
        "id": resources_pb2.Tag(name="a", id=-1),
        "name": resources_pb2.Tag(name="a\0"),
        "etag": resources_pb2.Tag(name="a", etag="f" * 65),
    }
    odd = resources_pb2.Tag(name=" MATHS ", id=99, post_count=-1, etag="0")
    return (
        *message(),
        Variant("without a name", [a_tag, nothing], refused("{}[1]")),
        Variant("20,000 without a name", [nothing] * 20_000, REFUSED),
        *(
            Variant(f"of a wrong {part}", [a_tag, each], refused(f"{{}}[1].{part}"))
            for part, each in wrong.items()
        ),
        Variant("whose other parts are wrong", [odd], SERVED),
        Variant("named twice", [a_tag, odd, a_tag], SERVED),
        Variant("as many as may be", [*names[:50]], SERVED),
        Variant("too many", [*names], REFUSED),
    )


def new_transfers() -> Kind:
    """The transfers of a batch."""
    one = credits_pb2.NewTransfer(from_user_id=ADA, to_user_id=CLEO, amount=1)
    wrong: dict[str, dict[str, Any]] = {
        "from_user_id": {"from_user_id": -1},
        "to_user_id": {"to_user_id": ADA},
        "amount": {"amount": 0},
        "memo": {"memo": "\0"},
    }

    def changed(parts: dict[str, Any]) -> credits_pb2.NewTransfer:
        given = {"from_user_id": ADA, "to_user_id": CLEO, "amount": 1}
        return credits_pb2.NewTransfer(**given | parts)

    nothing = credits_pb2.NewTransfer()
    return (
        *message(REFUSED),
        *(
            Variant(f"of a wrong {part}", [one, changed(values)], refused(f"{{}}[1].{part}"))
            for part, values in wrong.items()
        ),
        Variant("20,000 of nothing", [nothing] * 20_000, REFUSED),
        Variant("from nobody there", [one, changed({"from_user_id": MAX_INT64})], SERVED),
        Variant("of too much", [one, changed({"amount": MAX_INT64})], SERVED),
        Variant("as many as may be", [one] * 1000, SERVED),
        Variant("too many", [one] * 1001, REFUSED),
    )


adas_filter = users_pb2.UserFilter(query="a")
list_users = users_pb2.ListUsersRequest(filter=adas_filter, order_by="username")
a_user = resources_pb2.User(
    id=ADA,
    email=EMAIL,
    username=USERNAME,
    full_name="Ada",
    role=resources_pb2.USER_ROLE_USER,
    is_active=True,
)
a_profile = resources_pb2.Profile(user_id=ADA, bio="Counts.", avatar_url=URL)
adas_posts = posts_pb2.PostFilter(author_id=ADA, tag="Maths")
list_posts = posts_pb2.ListPostsRequest(filter=adas_posts, order_by="title")
list_transfers = credits_pb2.ListTransfersRequest(user_id=ADA, order_by="id desc")
a_post = resources_pb2.Post(
    id=POST, title="Changed", content="Counts.", tags=[resources_pb2.Tag(name="Letters")]
)

RPCS = {
    "UserService.CreateUser": Rpc(
        users_pb2.CreateUserRequest(
            email="new@example.com",
            username="new",
            password=factories.PASSWORD,
            profile=users_pb2.NewProfile(bio="New."),
        ),
        {
            "email": email,
            "username": username,
            "password": new_password,
            "full_name": full_name,
            "role": role,
            "profile": message(),
            "profile.bio": bio,
            "profile.avatar_url": avatar_url,
            "request_id": request_id(),
        },
        needs=("email", "username", "password"),
    ),
    "UserService.GetUser": Rpc(
        users_pb2.GetUserRequest(id=ADA),
        {
            "id": row_id(missing=refused("key")),
            "email": a_key(255),
            "username": a_key(50),
            "view": user_view,
        },
        needs=("key",),
    ),
    "UserService.BatchGetUsers": Rpc(
        users_pb2.BatchGetUsersRequest(ids=[ADA, BOB]),
        {"ids": row_ids(1000), "view": user_view},
        needs=("ids",),
    ),
    "UserService.ListUsers": Rpc(
        list_users,
        {
            **user_filter,
            "order_by": one_of(
                *("id", "id desc", "created_at", "created_at desc", "username", "username desc")
            ),
            "page_size": page_size(),
            "page_token": page_token(
                users_token(filter=adas_filter, order_by="username"),
                users_token(filter=adas_filter, order_by="username desc"),
                users_token(filter=adas_filter),
                users_token(filter=users_pb2.UserFilter(query="b"), order_by="username"),
                users_token(order_by="username"),
            ),
            "view": user_view,
        },
    ),
    "UserService.CountUsers": Rpc(users_pb2.CountUsersRequest(), user_filter),
    "UserService.UpdateUser": Rpc(
        users_pb2.UpdateUserRequest(user=a_user, update_mask=FieldMask(paths=["*"])),
        {
            "user": message(refused("user", "user.email", "user.username", "user.role")),
            "user.id": row_id(),
            "user.email": email,
            "user.username": username,
            "user.full_name": full_name,
            "user.role": enum(missing=REFUSED, last=3),
            "user.is_active": flag(),
            "user.created_at": an_ignored_moment,
            "user.updated_at": an_ignored_moment,
            "user.etag": etag(),
            "user.profile": message(ignored={"no profile": resources_pb2.Profile(bio="\0")}),
            "user.post_count": ignored_number(-1, 7),
            "user.newest_posts": message(ignored={"no post": resources_pb2.Post(title="\0")}),
            "update_mask": mask(
                *("email", "username", "full_name", "role", "is_active"),
                immutable=("id", "created_at", "updated_at", "etag", "profile", "password"),
            ),
            "request_id": request_id(),
        },
        needs=("user",),
    ),
    "UserService.DeleteUser": Rpc(
        users_pb2.DeleteUserRequest(id=BOB),
        {"id": row_id(), "etag": etag(), "request_id": request_id()},
        needs=("id",),
    ),
    "UserService.DeactivateUsers": Rpc(
        users_pb2.DeactivateUsersRequest(created_before=Timestamp(seconds=2**32)),
        {
            "created_before": moment(missing=REFUSED),
            "validate_only": flag(),
            "request_id": request_id(),
        },
        needs=("created_before",),
    ),
    "UserService.PurgeInactiveUsers": Rpc(
        users_pb2.PurgeInactiveUsersRequest(),
        {"validate_only": flag(), "request_id": request_id()},
    ),
    "UserService.VerifyPassword": Rpc(
        users_pb2.VerifyPasswordRequest(username=USERNAME, password=factories.PASSWORD),
        {
            "email": a_login(255),
            "username": a_login(50),
            "password": text(256, least=1, legal=UNKNOWN_LOGIN),
        },
        needs=("login", "password"),
    ),
    "UserService.ChangePassword": Rpc(
        users_pb2.ChangePasswordRequest(
            id=ADA, current_password=factories.PASSWORD, new_password="something else"
        ),
        {
            "id": row_id(unknown=UNKNOWN_LOGIN),
            "current_password": text(256, least=1, legal=UNKNOWN_LOGIN),
            "new_password": new_password,
            "request_id": request_id(),
        },
        needs=("id", "current_password", "new_password"),
    ),
    "UserService.GetUserStatistics": Rpc(
        users_pb2.GetUserStatisticsRequest(user_id=ADA),
        {"user_id": row_id()},
        needs=("user_id",),
    ),
    "UserService.ListUserPostCounts": Rpc(
        users_pb2.ListUserPostCountsRequest(order_by="post_count desc"),
        {
            "order_by": one_of("id", "id desc", "post_count", "post_count desc"),
            "page_size": page_size(),
            "page_token": page_token(
                counts_token(order_by="post_count desc"),
                counts_token(order_by="post_count"),
                counts_token(order_by="id desc"),
                counts_token(),
                tags_token(order_by="post_count desc"),
            ),
        },
    ),
    "UserService.ListAuthors": Rpc(
        users_pb2.ListAuthorsRequest(),
        {
            "page_size": page_size(),
            "page_token": page_token(
                token(users_pb2.ListAuthorsRequest()), users_token(), counts_token(), posts_token()
            ),
            "view": user_view,
        },
    ),
    "ProfileService.GetProfile": Rpc(
        profiles_pb2.GetProfileRequest(user_id=ADA), {"user_id": row_id()}, needs=("user_id",)
    ),
    "ProfileService.UpdateProfile": Rpc(
        profiles_pb2.UpdateProfileRequest(profile=a_profile, update_mask=FieldMask(paths=["*"])),
        {
            "profile": message(REFUSED),
            "profile.user_id": row_id(),
            "profile.bio": bio,
            "profile.avatar_url": avatar_url,
            "profile.etag": etag(),
            "update_mask": mask("bio", "avatar_url", immutable=("user_id", "etag")),
            "allow_missing": flag(),
            "request_id": request_id(),
        },
        needs=("profile",),
    ),
    "ProfileService.DeleteProfile": Rpc(
        profiles_pb2.DeleteProfileRequest(user_id=ADA),
        {"user_id": row_id(), "request_id": request_id()},
        needs=("user_id",),
    ),
    "PostService.CreatePost": Rpc(
        posts_pb2.CreatePostRequest(author_id=ADA, title="Letters", tags=["Maths"]),
        {
            "author_id": row_id(),
            "title": title,
            "content": content,
            "published": flag(),
            "tags": tag_names(50, least=0),
            "request_id": request_id(),
        },
        needs=("author_id", "title"),
    ),
    "PostService.GetPost": Rpc(
        posts_pb2.GetPostRequest(id=POST), {"id": row_id(), "view": post_view}, needs=("id",)
    ),
    "PostService.BatchGetPosts": Rpc(
        posts_pb2.BatchGetPostsRequest(ids=[POST, POST + 1]),
        {"ids": row_ids(1000), "view": post_view},
        needs=("ids",),
    ),
    "PostService.ListPosts": Rpc(
        list_posts,
        {
            **post_filter,
            "order_by": one_of(
                *("id", "id desc", "created_at", "created_at desc", "title", "title desc")
            ),
            "page_size": page_size(),
            "page_token": page_token(
                posts_token(filter=adas_posts, order_by="title"),
                posts_token(filter=adas_posts, order_by="title desc"),
                posts_token(filter=adas_posts),
                posts_token(filter=posts_pb2.PostFilter(author_id=ADA), order_by="title"),
                posts_token(order_by="title"),
                users_token(),
            ),
            "view": post_view,
        },
    ),
    "PostService.CountPosts": Rpc(posts_pb2.CountPostsRequest(), post_filter),
    "PostService.UpdatePost": Rpc(
        posts_pb2.UpdatePostRequest(post=a_post, update_mask=FieldMask(paths=["*"])),
        {
            "post": message(refused("post", "post.title")),
            "post.id": row_id(),
            "post.author_id": ignored_number(-1, BOB, 99),
            "post.title": title,
            "post.content": content,
            "post.published": flag(),
            "post.created_at": an_ignored_moment,
            "post.updated_at": an_ignored_moment,
            "post.published_at": an_ignored_moment,
            "post.etag": etag(),
            "post.author": message(ignored={"no user": resources_pb2.User(email="\0")}),
            "post.tags": post_tags(),
            "update_mask": mask(
                *("title", "content", "published", "tags"),
                immutable=(
                    *("id", "author_id", "created_at", "updated_at", "published_at", "etag"),
                    *("author", "tags.name"),
                ),
            ),
            "request_id": request_id(),
        },
        needs=("post",),
    ),
    "PostService.DeletePost": Rpc(
        posts_pb2.DeletePostRequest(id=POST),
        {"id": row_id(), "etag": etag(), "request_id": request_id()},
        needs=("id",),
    ),
    "PostService.AddPostTags": Rpc(
        posts_pb2.AddPostTagsRequest(post_id=POST, tags=["Letters", "maths"]),
        {"post_id": row_id(), "tags": tag_names(50), "request_id": request_id()},
        needs=("post_id", "tags"),
    ),
    "PostService.RemovePostTags": Rpc(
        posts_pb2.RemovePostTagsRequest(post_id=POST, tags=["Letters", "maths"]),
        {"post_id": row_id(), "tags": tag_names(50), "request_id": request_id()},
        needs=("post_id", "tags"),
    ),
    "TagService.CreateTags": Rpc(
        tags_pb2.CreateTagsRequest(names=["Letters", "maths"]),
        {"names": tag_names(1000), "request_id": request_id()},
        needs=("names",),
    ),
    "TagService.GetTag": Rpc(
        tags_pb2.GetTagRequest(id=MATHS),
        {"id": row_id(missing=refused("key")), "name": a_key(200)},
        needs=("key",),
    ),
    "TagService.ListTags": Rpc(
        tags_pb2.ListTagsRequest(prefix="m", order_by="name desc"),
        {
            "prefix": text(50, serve=("%", "_", "\\", " ", "\U0010ffff", "' OR 1=1 --")),
            "order_by": one_of("name", "name desc", "post_count", "post_count desc"),
            "page_size": page_size(),
            "page_token": page_token(
                tags_token(prefix="m", order_by="name desc"),
                tags_token(prefix="m", order_by="name"),
                tags_token(prefix="m", order_by="post_count desc"),
                tags_token(prefix="M", order_by="name desc"),
                tags_token(order_by="name desc"),
                posts_token(order_by="title desc"),
            ),
        },
    ),
    "TagService.UpdateTag": Rpc(
        tags_pb2.UpdateTagRequest(
            tag=resources_pb2.Tag(id=MATHS, name="Mathematics"), update_mask=FieldMask(paths=["*"])
        ),
        {
            "tag": message(refused("tag", "tag.id", "tag.name")),
            "tag.id": row_id(),
            "tag.name": tag_name,
            "tag.post_count": ignored_number(-1, 7),
            "tag.etag": etag(),
            "update_mask": mask("name", immutable=("id", "post_count", "etag", "name_key")),
            "request_id": request_id(),
        },
        needs=("tag", "tag.id"),
    ),
    "TagService.DeleteTag": Rpc(
        tags_pb2.DeleteTagRequest(id=MATHS),
        {"id": row_id(), "request_id": request_id()},
        needs=("id",),
    ),
    "CreditService.GetBalance": Rpc(
        credits_pb2.GetBalanceRequest(user_id=ADA), {"user_id": row_id()}, needs=("user_id",)
    ),
    "CreditService.Grant": Rpc(
        credits_pb2.GrantRequest(user_id=ADA, amount=5, memo="Welcome."),
        {
            "user_id": row_id(),
            "amount": amount(OVERFLOW),
            "memo": memo,
            "request_id": request_id(),
        },
        needs=("user_id", "amount"),
    ),
    "CreditService.Transfer": Rpc(
        credits_pb2.TransferRequest(from_user_id=ADA, to_user_id=CLEO, amount=5),
        {
            "from_user_id": (*row_id(), Variant("of the receiver", CLEO, refused("to_user_id"))),
            "to_user_id": (*row_id(), Variant("of the sender", ADA, REFUSED)),
            "amount": amount(INSUFFICIENT),
            "memo": memo,
            "request_id": request_id(),
        },
        needs=("from_user_id", "to_user_id", "amount"),
    ),
    "CreditService.BatchTransfer": Rpc(
        credits_pb2.BatchTransferRequest(
            transfers=[credits_pb2.NewTransfer(from_user_id=ADA, to_user_id=CLEO, amount=5)]
        ),
        {"transfers": new_transfers(), "atomic": flag(), "request_id": request_id()},
        needs=("transfers",),
    ),
    "CreditService.Hold": Rpc(
        credits_pb2.HoldRequest(from_user_id=ADA, to_user_id=CLEO, amount=5),
        {
            "from_user_id": (*row_id(), Variant("of the receiver", CLEO, refused("to_user_id"))),
            "to_user_id": (*row_id(), Variant("of the sender", ADA, REFUSED)),
            "amount": amount(INSUFFICIENT),
            "expires_in": lifetime(30 * 86_400),
            "memo": memo,
            "request_id": request_id(),
        },
        needs=("from_user_id", "to_user_id", "amount"),
    ),
    "CreditService.CaptureHold": Rpc(
        credits_pb2.CaptureHoldRequest(transfer_id=HOLD, amount=5),
        {
            "transfer_id": (*row_id(), Variant("of a grant", GRANT, NOT_PENDING)),
            "amount": amount(TOO_LARGE, missing=SERVED),
            "request_id": request_id(),
        },
        needs=("transfer_id",),
    ),
    "CreditService.ReleaseHold": Rpc(
        credits_pb2.ReleaseHoldRequest(transfer_id=HOLD),
        {
            "transfer_id": (*row_id(), Variant("of a grant", GRANT, NOT_PENDING)),
            "request_id": request_id(),
        },
        needs=("transfer_id",),
    ),
    "CreditService.GetTransfer": Rpc(
        credits_pb2.GetTransferRequest(id=GRANT), {"id": row_id()}, needs=("id",)
    ),
    "CreditService.ListTransfers": Rpc(
        list_transfers,
        {
            "user_id": (*row_id(unknown=SERVED), Variant("of another", BOB, SERVED)),
            "direction": enum(last=2),
            "state": enum(last=5),
            "order_by": one_of("id", "id desc"),
            "page_size": page_size(),
            "page_token": page_token(
                transfers_token(user_id=ADA, order_by="id desc"),
                transfers_token(user_id=CLEO, order_by="id desc"),
                transfers_token(user_id=ADA),
                transfers_token(user_id=ADA, order_by="id desc", direction=1),
                transfers_token(user_id=ADA, order_by="id desc", state=1),
                counts_token(order_by="id desc"),
            ),
        },
        needs=("user_id",),
    ),
    "CreditService.AuditCredits": Rpc(credits_pb2.AuditCreditsRequest(), {}),
}
# How a row is one text, given the columns of its table `t`.
ROW: dict[str, Callable[[list[str]], str]] = {
    "postgresql": lambda _: "t::text",
    "mysql": lambda columns: "concat_ws(',', {})".format(
        ", ".join(f"ifnull(hex({each}), 'NULL')" for each in columns)
    ),
    "sqlite": lambda columns: " || ',' || ".join(f"quote({each})" for each in columns),
}
EVERY_ROW = {
    kind: " UNION ALL ".join(
        f"SELECT '{name}', {text_of(table.columns.keys())} FROM {name} AS t"
        for name, table in Base.metadata.tables.items()
    )
    + " ORDER BY 1, 2"
    for kind, text_of in ROW.items()
}
WRONG: dict[str, list[Case]] = {name: [] for name in RPCS}
ODD: dict[str, list[Case]] = {name: [] for name in RPCS}
for _each in cases(RPCS):
    (ODD if _each.outcome.code is Code.OK else WRONG)[_each.rpc].append(_each)


@dataclass
class World:
    """A server, and the database under it."""

    client: Client
    db: Database
    onlooker: Onlooker
    password_hash: str

    async def restore(self) -> None:
        """Makes the database what every case starts from."""
        await empty_by(self.onlooker)
        ada = await factories.add_user(
            self.db, email=EMAIL, username=USERNAME, password_hash=self.password_hash
        )
        bob, cleo = await factories.add_users(self.db, 2)
        assert (ada.id, bob.id, cleo.id) == (ADA, BOB, CLEO)
        granted = [factories.grant(user_id, 2000) for user_id in (ADA, CLEO)]
        for operation in granted:
            await factories.make(self.db, operation)
        assert (await factories.make(self.db, factories.hold(ADA, CLEO, 500))).id == HOLD
        await self.onlooker.execute("UPDATE users SET is_active = false WHERE id = :bob", bob=BOB)
        async with self.db.transaction() as tx:
            await profiles.create(tx, ADA, "", "")
            post = await posts.create(tx, NewPost(ADA, "Notes", tags=("Maths", "Notes")))
        assert (post.id, *(tag.id for tag in post.tags)) == (POST, MATHS, NOTES)

    async def dump(self) -> list[tuple[Any, ...]]:
        """Returns every row of every table."""
        return [tuple(row) for row in await self.onlooker.rows(EVERY_ROW[self.onlooker.kind])]


@pytest.fixture(scope="module")
async def world(
    serve: Serve, shared_url: str, settings: Settings, emptier: Onlooker
) -> AsyncIterator[World]:
    passwords = Passwords(
        time_cost=settings.hash_time_cost,
        memory_kib=settings.hash_memory_kib,
        parallelism=settings.hash_parallelism,
        threads=1,
        queue=1,
    )
    password_hash = await passwords.hash(factories.PASSWORD)
    passwords.close()
    db = Database(shared_url)
    async with serve(shared_url) as client:
        made = World(client, db, emptier, password_hash)
        await made.restore()
        yield made
    await db.close()


def test_every_rpc_and_every_field_of_its_request_has_cases() -> None:
    served = {f"{rpc.containing_service.name}.{rpc.name}": rpc for rpc in rpcs()}
    assert RPCS.keys() == served.keys()
    for name, rpc in RPCS.items():
        assert rpc.good.DESCRIPTOR.full_name == served[name].input_type.full_name
        assert uncovered(rpc) == [], name


@pytest.mark.parametrize("rpc", [name for name, wrong in WRONG.items() if wrong])
async def test_a_wrong_request_is_refused_by_the_table_and_changes_nothing(
    world: World, rpc: str
) -> None:
    before = await world.dump()
    for case in WRONG[rpc]:
        refusal = await refusal_of(world.client.raw(case.method, case.request))
        told = (refusal.code, refusal.reason, set(refusal.fields), set(refusal.details))
        code, reason, fields, details = case.outcome
        assert told == (code, reason, set(fields), set(details)), f"{case}: {refusal}"
        assert (refusal.domain, bool(refusal.message)) == ("byline", True), f"{case}: {refusal}"
    assert await world.dump() == before


@pytest.mark.parametrize("rpc", ODD)
async def test_what_is_odd_but_legal_is_served(world: World, rpc: str) -> None:
    writes = rpc.replace(".", "/") in WRITES
    start = await world.dump()
    for case in ODD[rpc]:
        outcome = await outcome_of(world.client.raw(case.method, case.request))
        assert isinstance(outcome, bytes), f"{case}: {outcome}"
        if writes:
            await world.restore()
    assert writes or await world.dump() == start
