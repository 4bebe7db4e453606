"""Every RPC that changes something, and how to come by a request that it serves.

An RPC that takes a request id and has no line in WRITES fails a test of test_idempotency.py.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from byline.v1 import credits_pb2, posts_pb2, profiles_pb2, resources_pb2, tags_pb2, users_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from tests import factories

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from google.protobuf.message import Message

    from tests.clients import Client

    Make = Callable[[Client], Awaitable[Message]]

_numbers = itertools.count(1)


async def create_user(_: Client) -> Message:
    profile = users_pb2.NewProfile(bio="Writes.")
    return factories.create_user_request(full_name="Ada", profile=profile)


async def update_user(client: Client) -> Message:
    user = await factories.create_user(client)
    return users_pb2.UpdateUserRequest(
        user=resources_pb2.User(id=user.id, full_name=f"Ada {user.id}"),
        update_mask=FieldMask(paths=["full_name"]),
    )


async def delete_user(client: Client) -> Message:
    user = await factories.create_user(client)
    return users_pb2.DeleteUserRequest(id=user.id, etag=user.etag)


async def deactivate_users(_: Client) -> Message:
    # No two alike, and nobody is as old.
    return users_pb2.DeactivateUsersRequest(created_before=Timestamp(seconds=next(_numbers)))


async def purge_inactive_users(_: Client) -> Message:
    return users_pb2.PurgeInactiveUsersRequest()


async def change_password(client: Client) -> Message:
    user = await factories.create_user(client)
    return users_pb2.ChangePasswordRequest(
        id=user.id, current_password=factories.PASSWORD, new_password="something else"
    )


async def update_profile(client: Client) -> Message:
    user = await factories.create_user(client)
    return profiles_pb2.UpdateProfileRequest(
        profile=resources_pb2.Profile(user_id=user.id, bio="Counts."), allow_missing=True
    )


async def delete_profile(client: Client) -> Message:
    user = await factories.create_user(client, profile=users_pb2.NewProfile())
    return profiles_pb2.DeleteProfileRequest(user_id=user.id)


async def create_post(client: Client) -> Message:
    user = await factories.create_user(client)
    return posts_pb2.CreatePostRequest(
        author_id=user.id, title="Notes", content="Counts.", tags=[f"of {user.id}"]
    )


async def update_post(client: Client) -> Message:
    post = await factories.create_post(client)
    return posts_pb2.UpdatePostRequest(
        post=resources_pb2.Post(id=post.id, title=f"Notes {post.id}", etag=post.etag)
    )


async def delete_post(client: Client) -> Message:
    return posts_pb2.DeletePostRequest(id=(await factories.create_post(client)).id)


async def add_post_tags(client: Client) -> Message:
    post = await factories.create_post(client)
    return posts_pb2.AddPostTagsRequest(post_id=post.id, tags=[f"on {post.id}"])


async def remove_post_tags(client: Client) -> Message:
    post = await factories.create_post(client, tags=["a", "b"])
    return posts_pb2.RemovePostTagsRequest(post_id=post.id, tags=["a"])


async def create_tags(_: Client) -> Message:
    number = next(_numbers)
    return tags_pb2.CreateTagsRequest(names=[f"{number} a", f"{number} b"])


async def update_tag(client: Client) -> Message:
    (tag,) = await factories.create_tags(client, f"tag {next(_numbers)}")
    return tags_pb2.UpdateTagRequest(tag=resources_pb2.Tag(id=tag.id, name=f"new {tag.id}"))


async def delete_tag(client: Client) -> Message:
    (tag,) = await factories.create_tags(client, f"tag {next(_numbers)}")
    return tags_pb2.DeleteTagRequest(id=tag.id)


async def grant(client: Client) -> Message:
    user = await factories.create_user(client)
    return credits_pb2.GrantRequest(user_id=user.id, amount=10, memo="welcome")


async def transfer(client: Client) -> Message:
    sender, receiver = await factories.create_users_with(client, 10, 0)
    return credits_pb2.TransferRequest(from_user_id=sender, to_user_id=receiver, amount=3)


async def batch_transfer(client: Client) -> Message:
    sender, receiver = await factories.create_users_with(client, 10, 0)
    # The first is made, and for the second too little is left.
    asked = (
        credits_pb2.NewTransfer(from_user_id=sender, to_user_id=receiver, amount=amount)
        for amount in (3, 100)
    )
    return credits_pb2.BatchTransferRequest(transfers=asked)


async def hold(client: Client) -> Message:
    sender, receiver = await factories.create_users_with(client, 10, 0)
    return credits_pb2.HoldRequest(from_user_id=sender, to_user_id=receiver, amount=3)


async def capture_hold(client: Client) -> Message:
    return credits_pb2.CaptureHoldRequest(transfer_id=await _held(client), amount=2)


async def release_hold(client: Client) -> Message:
    return credits_pb2.ReleaseHoldRequest(transfer_id=await _held(client))


async def _held(client: Client) -> int:
    """Makes a hold, and returns its id."""
    sender, receiver = await factories.create_users_with(client, 10, 0)
    asked = credits_pb2.HoldRequest(from_user_id=sender, to_user_id=receiver, amount=3)
    made: int = (await client.credits.Hold(asked)).transfer.id
    return made


WRITES: Mapping[str, Make] = {
    "UserService/CreateUser": create_user,
    "UserService/UpdateUser": update_user,
    "UserService/DeleteUser": delete_user,
    "UserService/DeactivateUsers": deactivate_users,
    "UserService/PurgeInactiveUsers": purge_inactive_users,
    "UserService/ChangePassword": change_password,
    "ProfileService/UpdateProfile": update_profile,
    "ProfileService/DeleteProfile": delete_profile,
    "PostService/CreatePost": create_post,
    "PostService/UpdatePost": update_post,
    "PostService/DeletePost": delete_post,
    "PostService/AddPostTags": add_post_tags,
    "PostService/RemovePostTags": remove_post_tags,
    "TagService/CreateTags": create_tags,
    "TagService/UpdateTag": update_tag,
    "TagService/DeleteTag": delete_tag,
    "CreditService/Grant": grant,
    "CreditService/Transfer": transfer,
    "CreditService/BatchTransfer": batch_transfer,
    "CreditService/Hold": hold,
    "CreditService/CaptureHold": capture_hold,
    "CreditService/ReleaseHold": release_hold,
}


def named(request: Message, request_id: object) -> Any:  # noqa: ANN401 - a message of the same type
    """Returns the request with a request id."""
    made = type(request)()
    made.CopyFrom(request)
    made.request_id = str(request_id)  # type: ignore[attr-defined] # each of WRITES has it
    return made


async def send(client: Client, rpc: str, request: Message, request_id: object) -> bytes:
    """Sends a request with a request id, and returns the answer as it is on the wire."""
    wire = named(request, request_id).SerializeToString()
    return await client.raw(f"byline.v1.{rpc}", wire)
