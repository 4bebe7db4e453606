"""ProfileService: what users tell about themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from byline.v1 import profiles_pb2 as pb
from byline.v1.profiles_pb2_grpc import ProfileServiceServicer

from service import convert
from storage import profiles

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from storage.database import Database

    Context = ServicerContext[Any, Any]


class Profiles(ProfileServiceServicer):
    """Serves `byline.v1.ProfileService`; the contract is in profiles.proto."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def GetProfile(self, request: pb.GetProfileRequest, _: Context) -> pb.GetProfileResponse:
        """Returns a profile."""
        async with self._db.read() as read:
            row = await profiles.get(read, request.user_id)
        return pb.GetProfileResponse(profile=convert.to_profile(row))

    async def UpdateProfile(
        self, request: pb.UpdateProfileRequest, _: Context
    ) -> pb.UpdateProfileResponse:
        """Changes a profile, or makes it."""
        changes = convert.profile_changes(request.profile, request.update_mask)
        since = convert.from_etag(request.profile.etag)
        act = profiles.update_or_create if request.allow_missing else profiles.update
        async with self._db.transaction() as tx:
            row = await act(tx, request.profile.user_id, changes, unchanged_since=since)
        return pb.UpdateProfileResponse(profile=convert.to_profile(row))

    async def DeleteProfile(
        self, request: pb.DeleteProfileRequest, _: Context
    ) -> pb.DeleteProfileResponse:
        """Removes a profile."""
        async with self._db.transaction() as tx:
            await profiles.delete(tx, request.user_id)
        return pb.DeleteProfileResponse()
