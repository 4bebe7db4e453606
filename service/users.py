"""UserService: accounts and their passwords."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from byline.v1 import users_pb2 as pb
from byline.v1.users_pb2_grpc import UserServiceServicer

from service import convert, pagination
from service.errors import InvalidCredentials
from storage import authors, profiles, users
from storage.lookups import Lookups
from storage.models import Role

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractAsyncContextManager

    from grpc.aio import ServicerContext

    from service.passwords import Passwords
    from storage.database import Database
    from storage.sessions import Read

    Context = ServicerContext[Any, Any]


class Users(UserServiceServicer):
    """Serves `byline.v1.UserService`; the contract is in users.proto."""

    def __init__(self, database: Database, passwords: Passwords) -> None:
        self._db = database
        self._passwords = passwords
        basic = Lookups(database, "user", users.batch_get)
        self._lookups = {
            pb.USER_VIEW_UNSPECIFIED: basic,
            pb.USER_VIEW_BASIC: basic,
            pb.USER_VIEW_PROFILE: Lookups(database, "user", partial(users.batch_get, profile=True)),
        }

    async def CreateUser(self, request: pb.CreateUserRequest, _: Context) -> pb.CreateUserResponse:
        """Makes a user."""
        new = users.NewUser(
            email=request.email,
            username=request.username,
            password_hash=await self._passwords.hash(request.password),
            full_name=request.full_name if request.HasField("full_name") else None,
            role=convert.from_role(request.role) or Role.USER,
        )
        async with self._db.transaction() as tx:
            row = await users.create(tx, new)
            if request.HasField("profile"):
                given = request.profile
                made = await profiles.create(tx, row.id, given.bio, given.avatar_url)
                row = row._replace(profile=made)
        return pb.CreateUserResponse(user=convert.to_user(row))

    async def GetUser(self, request: pb.GetUserRequest, _: Context) -> pb.GetUserResponse:
        """Returns one user."""
        key = convert.from_key(request)
        if request.HasField("id") and request.view in self._lookups:
            row = await self._lookups[request.view].get(request.id)
            return pb.GetUserResponse(user=convert.to_user(row))
        async with self._reading(request.view) as read:
            row = await users.get(read, key, profile=_with_profile(request.view))
            more = await _more(read, request.view, [row])
        return pb.GetUserResponse(user=convert.to_user(row, more))

    async def BatchGetUsers(
        self, request: pb.BatchGetUsersRequest, _: Context
    ) -> pb.BatchGetUsersResponse:
        """Returns users by id."""
        ids = list(request.ids)
        async with self._reading(request.view) as read:
            found = await users.batch_get(read, ids, profile=_with_profile(request.view))
            more = await _more(read, request.view, found.values())
        present, missing = convert.in_order(ids, found)
        response = pb.BatchGetUsersResponse(missing_ids=missing)
        convert.add_users(response.users, present, more)
        return response

    async def ListUsers(self, request: pb.ListUsersRequest, _: Context) -> pb.ListUsersResponse:
        """Returns a page of users."""
        where = convert.from_user_filter(request.filter)
        window = pagination.window(request)
        async with self._reading(request.view) as read:
            page = await users.list_page(read, where, window, profile=_with_profile(request.view))
            more = await _more(read, request.view, page.rows)
        response = pb.ListUsersResponse(next_page_token=pagination.token(page.next, request))
        convert.add_users(response.users, page.rows, more)
        return response

    async def CountUsers(self, request: pb.CountUsersRequest, _: Context) -> pb.CountUsersResponse:
        """Counts users."""
        where = convert.from_user_filter(request.filter)
        async with self._db.read() as read:
            total = await users.count(read, where)
        return pb.CountUsersResponse(count=total)

    async def UpdateUser(self, request: pb.UpdateUserRequest, _: Context) -> pb.UpdateUserResponse:
        """Changes a user."""
        changes = convert.user_changes(request.user, request.update_mask)
        since = convert.from_etag(request.user.etag)
        async with self._db.transaction(single=True) as tx:
            row = await users.update(tx, request.user.id, changes, unchanged_since=since)
        return pb.UpdateUserResponse(user=convert.to_user(row))

    async def DeleteUser(self, request: pb.DeleteUserRequest, _: Context) -> pb.DeleteUserResponse:
        """Removes a user."""
        since = convert.from_etag(request.etag)
        async with self._db.transaction() as tx:
            await users.delete(tx, request.id, unchanged_since=since)
        return pb.DeleteUserResponse()

    async def DeactivateUsers(
        self, request: pb.DeactivateUsersRequest, _: Context
    ) -> pb.DeactivateUsersResponse:
        """Makes old users inactive, or says how many it would be."""
        before = convert.from_timestamp(request.created_before, "created_before", round_up=True)
        where = users.Filter(is_active=True, created_before=before)
        async with self._db.transaction() as tx:
            act = users.count if request.validate_only else users.deactivate
            affected = await act(tx, where)
        return pb.DeactivateUsersResponse(affected_count=affected)

    async def PurgeInactiveUsers(
        self, request: pb.PurgeInactiveUsersRequest, _: Context
    ) -> pb.PurgeInactiveUsersResponse:
        """Removes inactive users, or says how many it would be."""
        where = users.Filter(is_active=False)
        async with self._db.transaction() as tx:
            act = users.count if request.validate_only else users.purge
            affected = await act(tx, where)
        return pb.PurgeInactiveUsersResponse(affected_count=affected)

    async def VerifyPassword(
        self, request: pb.VerifyPasswordRequest, _: Context
    ) -> pb.VerifyPasswordResponse:
        """Returns the user whose password it is."""
        key = convert.from_login(request)
        known = await self._authenticate(key, request.password)
        if self._passwords.is_outdated(known.password_hash):
            rehashed = await self._passwords.hash(request.password)
            async with self._db.transaction() as tx:
                await users.rehash_password(tx, known.user.id, known.password_hash, rehashed)
        return pb.VerifyPasswordResponse(user=convert.to_user(known.user))

    async def ChangePassword(
        self, request: pb.ChangePasswordRequest, _: Context
    ) -> pb.ChangePasswordResponse:
        """Replaces a password."""
        known = await self._authenticate(users.Key("id", request.id), request.current_password)
        new_hash = await self._passwords.hash(request.new_password)
        async with self._db.transaction() as tx:
            await users.change_password(tx, request.id, known.password_hash, new_hash)
        return pb.ChangePasswordResponse()

    async def GetUserStatistics(
        self, request: pb.GetUserStatisticsRequest, _: Context
    ) -> pb.GetUserStatisticsResponse:
        """Returns what a user's posts amount to."""
        async with self._db.read() as read:
            row = await authors.statistics(read, request.user_id)
        return convert.to_statistics(row)

    async def ListUserPostCounts(
        self, request: pb.ListUserPostCountsRequest, _: Context
    ) -> pb.ListUserPostCountsResponse:
        """Returns a page of how many posts each user has."""
        window = pagination.window(request)
        async with self._db.read() as read:
            page = await authors.list_post_counts(read, window)
        return pb.ListUserPostCountsResponse(
            counts=(pb.UserPostCount(**row._asdict()) for row in page.rows),
            next_page_token=pagination.token(page.next, request),
        )

    async def ListAuthors(
        self, request: pb.ListAuthorsRequest, _: Context
    ) -> pb.ListAuthorsResponse:
        """Returns a page of the users who have published."""
        where = users.Filter(has_published=True)
        window = pagination.window(request)
        async with self._reading(request.view) as read:
            page = await users.list_page(read, where, window, profile=_with_profile(request.view))
            more = await _more(read, request.view, page.rows)
        response = pb.ListAuthorsResponse(next_page_token=pagination.token(page.next, request))
        convert.add_users(response.users, page.rows, more)
        return response

    def _reading(self, view: pb.UserView.ValueType) -> AbstractAsyncContextManager[Read]:
        """A read whose statements agree, where the view takes more than one."""
        return self._db.read(snapshot=view == pb.USER_VIEW_FULL)

    async def _authenticate(self, key: users.Key, password: str) -> users.Credentials:
        """Returns the active user with this key and password. No connection waits for the hash."""
        async with self._db.read() as read:
            known = await users.get_credentials(read, key)
        matches = await self._passwords.verify(known and known.password_hash, password)
        if known is None or not matches or not known.user.is_active:
            raise InvalidCredentials
        return known


def _with_profile(view: pb.UserView.ValueType) -> bool:
    return view in {pb.USER_VIEW_PROFILE, pb.USER_VIEW_FULL}


async def _more(
    read: Read, view: pb.UserView.ValueType, rows: Iterable[users.UserRow]
) -> authors.Recent | None:
    """What the full view adds."""
    if view != pb.USER_VIEW_FULL:
        return None
    return await authors.recent(read, [row.id for row in rows])
