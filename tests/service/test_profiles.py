"""ProfileService, as its callers see it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from byline.v1 import profiles_pb2 as pb
from byline.v1 import resources_pb2, users_pb2
from google.protobuf.field_mask_pb2 import FieldMask

from tests import factories
from tests.clients import missing, refusal_of, stale

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.clients import Client

URL = "https://example.com/ada"


@pytest.fixture
def client(emptied_url: str, shared_client: Client) -> Client:
    del emptied_url
    return shared_client


@pytest.fixture
async def given(client: Client) -> resources_pb2.Profile:
    """The profile of a user."""
    return await create(client)


async def test_a_profile_is_read_by_its_users_id(
    client: Client, given: resources_pb2.Profile
) -> None:
    assert await get(client, given.user_id) == given
    assert (given.bio, given.avatar_url) == ("Counts.", URL)


@pytest.mark.parametrize(
    ("mask", "sent", "expected"),
    [
        (["bio"], {"bio": "New.", "avatar_url": URL + "/2"}, ("New.", URL)),
        (["avatar_url"], {"bio": "New.", "avatar_url": URL + "/2"}, ("Counts.", URL + "/2")),
        (["bio", "avatar_url"], {"bio": "New."}, ("New.", "")),
        (["*"], {"bio": "New."}, ("New.", "")),
        (["*"], {}, ("", "")),
        ([], {"bio": "New."}, ("New.", URL)),
        (["bio"], {"bio": "ß🦉\n" * 3333}, ("ß🦉\n" * 3333, URL)),
    ],
)
async def test_an_update_changes_what_its_mask_names(
    client: Client, mask: Sequence[str], sent: Mapping[str, Any], expected: tuple[str, str]
) -> None:
    for allow_missing in (False, True):
        given = await create(client)
        after = await update(client, given.user_id, *mask, allow_missing=allow_missing, **sent)
        assert (after.bio, after.avatar_url) == expected
        assert after.etag != given.etag
        assert await get(client, given.user_id) == after


async def test_a_profile_changes_without_its_user(
    client: Client, given: resources_pb2.Profile
) -> None:
    request = users_pb2.GetUserRequest(id=given.user_id)
    before = await client.users.GetUser(request)
    await update(client, given.user_id, "bio", bio="New.")
    assert await client.users.GetUser(request) == before


@pytest.mark.parametrize("allow_missing", [False, True])
async def test_an_update_that_changes_nothing_leaves_no_trace(
    client: Client, given: resources_pb2.Profile, *, allow_missing: bool
) -> None:
    for mask in ([], ["*"], ["bio"]):
        same = await update(
            client, given.user_id, *mask, allow_missing=allow_missing, bio="Counts.", avatar_url=URL
        )
        assert same == given
    assert await update(client, given.user_id, allow_missing=allow_missing) == given


@pytest.mark.parametrize("allow_missing", [False, True])
async def test_an_update_goes_through_with_the_current_etag_and_no_other(
    client: Client, given: resources_pb2.Profile, *, allow_missing: bool
) -> None:
    for etag in ("garbage", "0"):
        call = update(client, given.user_id, "bio", bio="x", etag=etag, allow_missing=allow_missing)
        assert (await refusal_of(call)).what == stale("profile", given.user_id)
    assert await get(client, given.user_id) == given
    after = await update(
        client, given.user_id, "bio", bio="New.", etag=given.etag, allow_missing=allow_missing
    )
    again = update(
        client, given.user_id, "bio", bio="x", etag=given.etag, allow_missing=allow_missing
    )
    assert (await refusal_of(again)).what == stale("profile", given.user_id)
    assert await get(client, given.user_id) == after


async def test_a_missing_profile_is_made_only_when_that_is_allowed(client: Client) -> None:
    user = await factories.create_user(client)
    refusal = await refusal_of(update(client, user.id, "bio", bio="New."))
    assert refusal.what == missing("profile", user.id)

    made = await update(client, user.id, "bio", bio="New.", avatar_url=URL, allow_missing=True)
    assert (made.user_id, made.bio, made.avatar_url) == (user.id, "New.", "")
    assert await get(client, user.id) == made


async def test_a_missing_profile_has_no_etag_that_could_match(client: Client) -> None:
    user = await factories.create_user(client)
    call = update(client, user.id, "bio", bio="New.", etag="0", allow_missing=True)
    assert (await refusal_of(call)).what == missing("profile", user.id)


async def test_of_many_who_make_the_same_profile_all_are_answered(client: Client) -> None:
    user = await factories.create_user(client)
    bios = [f"Bio {number}" for number in range(20)]
    await asyncio.gather(
        *(update(client, user.id, "bio", bio=bio, allow_missing=True) for bio in bios)
    )
    assert (await get(client, user.id)).bio in bios


@pytest.mark.parametrize(("allow_missing", "resource"), [(False, "profile"), (True, "user")])
async def test_nobody_has_no_profile_and_gets_none(
    client: Client, resource: str, *, allow_missing: bool
) -> None:
    for call, named in (
        (update(client, 7, "bio", bio="x", allow_missing=allow_missing), resource),
        (get(client, 7), "profile"),
        (delete(client, 7), "profile"),
    ):
        assert (await refusal_of(call)).what == missing(named, 7)


async def test_a_deleted_profile_is_gone_and_its_user_is_not(
    client: Client, given: resources_pb2.Profile
) -> None:
    assert await delete(client, given.user_id) == pb.DeleteProfileResponse()
    for call in (get(client, given.user_id), delete(client, given.user_id)):
        assert (await refusal_of(call)).what == missing("profile", given.user_id)
    answer = await client.users.GetUser(
        users_pb2.GetUserRequest(id=given.user_id, view=users_pb2.USER_VIEW_PROFILE)
    )
    assert not answer.user.HasField("profile")


async def test_a_profile_that_is_made_again_has_another_etag(
    client: Client, given: resources_pb2.Profile
) -> None:
    await delete(client, given.user_id)
    again = await update(
        client, given.user_id, bio=given.bio, avatar_url=given.avatar_url, allow_missing=True
    )
    assert again.etag != given.etag


async def create(client: Client) -> resources_pb2.Profile:
    new = users_pb2.NewProfile(bio="Counts.", avatar_url=URL)
    return (await factories.create_user(client, profile=new)).profile


async def get(client: Client, user_id: int) -> resources_pb2.Profile:
    return (await client.profiles.GetProfile(pb.GetProfileRequest(user_id=user_id))).profile


async def update(
    client: Client,
    user_id: int,
    *mask: str,
    allow_missing: bool = False,
    **sent: str,
) -> resources_pb2.Profile:
    request = pb.UpdateProfileRequest(
        profile=resources_pb2.Profile(user_id=user_id, **sent),
        update_mask=FieldMask(paths=mask),
        allow_missing=allow_missing,
    )
    return (await client.profiles.UpdateProfile(request)).profile


async def delete(client: Client, user_id: int) -> pb.DeleteProfileResponse:
    return await client.profiles.DeleteProfile(pb.DeleteProfileRequest(user_id=user_id))
