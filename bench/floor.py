"""A server that answers constant messages and touches no database: what grpc.aio costs by itself.

Its answers are as long as those from what `byline seed` makes.
"""

from __future__ import annotations

from functools import cache

from byline.v1 import credits_pb2, posts_pb2, resources_pb2, users_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from bench import methods
from bench.serve import Context, Rpc, serve
from service.loop import plain, run

MOMENT = Timestamp(seconds=1_710_000_000, nanos=123_456_000)
ETAG = "613b0c5d1e240"
USER = resources_pb2.User(
    id=51_234,
    email="barbara.knuth.1.51234@example.com",
    username="barbara.knuth.1.51234",
    full_name="Barbara Knuth",
    role=resources_pb2.USER_ROLE_USER,
    is_active=True,
    created_at=MOMENT,
    updated_at=MOMENT,
    etag=ETAG,
)
SUMMARY = resources_pb2.Post(
    id=251_234,
    author_id=51_234,
    title="The case for slow rivers",
    published=True,
    created_at=MOMENT,
    updated_at=MOMENT,
    published_at=MOMENT,
    etag=ETAG,
)
TAG = resources_pb2.Tag(id=251, name="distributed caching", etag=ETAG)
# 90 words of 6 letters and a space are as many as a post has on average.
CONTENT = ("letter " * 90).strip() + "."
FULL = resources_pb2.Post(author=USER, content=CONTENT, tags=[TAG] * 2)
FULL.MergeFrom(SUMMARY)
CREATED = resources_pb2.Post(author=USER, content="letter " * 60, tags=[TAG] * 3)
CREATED.MergeFrom(SUMMARY)
TRANSFER = credits_pb2.Transfer(
    id=1_251_234,
    kind=credits_pb2.TRANSFER_KIND_TRANSFER,
    from_user_id=51_234,
    to_user_id=51_235,
    amount=1,
    state=credits_pb2.TRANSFER_STATE_SETTLED,
    created_at=MOMENT,
)
TOKEN = "A" * 60
# Users whom a search finds.
FOUND = 18
GOT = users_pb2.GetUserResponse(user=USER)
UPDATED = users_pb2.UpdateUserResponse(user=USER)
POSTED = posts_pb2.CreatePostResponse(post=CREATED)
GIVEN = credits_pb2.TransferResponse(transfer=TRANSFER)


@cache
def _batch(size: int) -> users_pb2.BatchGetUsersResponse:
    return users_pb2.BatchGetUsersResponse(users=[USER] * size)


@cache
def _users(size: int) -> users_pb2.ListUsersResponse:
    return users_pb2.ListUsersResponse(users=[USER] * size, next_page_token=TOKEN)


@cache
def _posts(size: int, view: posts_pb2.PostView.ValueType) -> posts_pb2.ListPostsResponse:
    post = FULL if view == posts_pb2.POST_VIEW_FULL else SUMMARY
    return posts_pb2.ListPostsResponse(posts=[post] * size, next_page_token=TOKEN)


async def get_user(_: users_pb2.GetUserRequest, __: Context) -> users_pb2.GetUserResponse:
    """Returns the user."""
    return GOT


async def batch_get_users(
    request: users_pb2.BatchGetUsersRequest, _: Context
) -> users_pb2.BatchGetUsersResponse:
    """Returns the user as often as asked."""
    return _batch(len(request.ids))


async def list_users(
    request: users_pb2.ListUsersRequest, _: Context
) -> users_pb2.ListUsersResponse:
    """Returns a page of the user, or a few who are found."""
    return _users(FOUND if request.filter.query else request.page_size)


async def update_user(_: users_pb2.UpdateUserRequest, __: Context) -> users_pb2.UpdateUserResponse:
    """Returns the user, changed in nothing."""
    return UPDATED


async def list_posts(
    request: posts_pb2.ListPostsRequest, _: Context
) -> posts_pb2.ListPostsResponse:
    """Returns a page of the post."""
    return _posts(request.page_size, request.view)


async def create_post(_: posts_pb2.CreatePostRequest, __: Context) -> posts_pb2.CreatePostResponse:
    """Returns the post."""
    return POSTED


async def transfer(_: credits_pb2.TransferRequest, __: Context) -> credits_pb2.TransferResponse:
    """Returns the transfer."""
    return GIVEN


RPCS = (
    Rpc(methods.GET_USER, users_pb2.GetUserRequest, get_user),
    Rpc(methods.BATCH_GET_USERS, users_pb2.BatchGetUsersRequest, batch_get_users),
    Rpc(methods.LIST_USERS, users_pb2.ListUsersRequest, list_users),
    Rpc(methods.UPDATE_USER, users_pb2.UpdateUserRequest, update_user),
    Rpc(methods.LIST_POSTS, posts_pb2.ListPostsRequest, list_posts),
    Rpc(methods.CREATE_POST, posts_pb2.CreatePostRequest, create_post),
    Rpc(methods.TRANSFER, credits_pb2.TransferRequest, transfer),
)

if __name__ == "__main__":
    run(serve(*RPCS), plain)
