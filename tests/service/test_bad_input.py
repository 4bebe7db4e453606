"""Every kind of wrong request that every RPC can get: how it is refused, and that nothing changes.

An RPC, or a field of one, that has no cases fails the first test. Its line goes into RPCS.
"""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

import asyncpg
import byline.v1
import pytest
from byline.v1 import profiles_pb2, resources_pb2, users_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from service import pagination
from service.passwords import Passwords
from storage import profiles
from storage.database import Database
from storage.keyset import Cursor
from tests import factories
from tests.clients import refusal_of
from tests.service.bad_requests import (
    NOT_FOUND,
    REFUSED,
    UNKNOWN_LOGIN,
    Case,
    Code,
    Kind,
    Rpc,
    cases,
    enum,
    etag,
    flag,
    mask,
    message,
    moment,
    one_of,
    page_size,
    page_token,
    refused,
    request_id,
    row_id,
    row_ids,
    text,
    uncovered,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from google.protobuf.descriptor import MethodDescriptor

    from service.config import Settings
    from tests.clients import Client
    from tests.conftest import Serve

# Who there is: ada, who has a profile, and bob, who is inactive.
ADA, BOB = 1, 2
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
view = enum(last=2)
user_filter = {
    "filter": message(),
    "filter.is_active": flag(),
    "filter.role": role,
    "filter.query": text(255, serve=("%", "_", "\\", "' OR 1=1 --")),
    "filter.created_after": moment(),
    "filter.created_before": moment(),
}


def a_key(most: int) -> Kind:
    """An email or a username that somebody is looked up by."""
    return text(most, least=1, missing=refused("key"), legal=NOT_FOUND)


def a_login(most: int) -> Kind:
    """An email or a username that somebody logs in with."""
    return text(most, least=1, missing=refused("login"), legal=UNKNOWN_LOGIN)


def token(**asked: object) -> str:
    """The token of a page of ListUsers."""
    request = users_pb2.ListUsersRequest(**asked)  # type: ignore[arg-type] # any of its fields
    value: int | str = USERNAME if request.order_by.startswith("username") else ADA
    return pagination.token(Cursor(value, ADA), request)


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
            "view": view,
        },
        needs=("key",),
    ),
    "UserService.BatchGetUsers": Rpc(
        users_pb2.BatchGetUsersRequest(ids=[ADA, BOB]),
        {"ids": row_ids(1000), "view": view},
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
                token(filter=adas_filter, order_by="username"),
                token(filter=adas_filter, order_by="username desc"),
                token(filter=adas_filter),
                token(filter=users_pb2.UserFilter(query="b"), order_by="username"),
                token(order_by="username"),
            ),
            "view": view,
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
            "user.created_at": message(ignored={"no moment": Timestamp(nanos=-1)}),
            "user.updated_at": message(ignored={"no moment": Timestamp(nanos=-1)}),
            "user.etag": etag(),
            "user.profile": message(ignored={"no profile": resources_pb2.Profile(bio="\0")}),
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
}
WRONG = [case for case in cases(RPCS) if case.outcome.code is not Code.OK]
ODD = [case for case in cases(RPCS) if case.outcome.code is Code.OK]


@dataclass
class World:
    """A server, and the database under it."""

    client: Client
    db: Database
    connection: asyncpg.Connection
    password_hash: str

    async def restore(self) -> None:
        """Makes the database what every case starts from."""
        await self.connection.execute("TRUNCATE users RESTART IDENTITY CASCADE")
        ada = await factories.add_user(
            self.db, email=EMAIL, username=USERNAME, password_hash=self.password_hash
        )
        bob = await factories.add_user(self.db)
        assert (ada.id, bob.id) == (ADA, BOB)
        await self.connection.execute("UPDATE users SET is_active = false WHERE id = $1", BOB)
        async with self.db.transaction() as tx:
            await profiles.create(tx, ADA, "", "")

    async def dump(self) -> dict[str, list[str]]:
        """Returns every row of every table."""
        tables = await self.connection.fetch(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        )
        return {
            name: [
                row
                for (row,) in await self.connection.fetch(
                    f"SELECT t::text FROM {name} AS t ORDER BY 1"  # noqa: S608 - a table's own name
                )
            ]
            for (name,) in tables
        }


@pytest.fixture(scope="module")
async def world(serve: Serve, shared_url: str, settings: Settings) -> AsyncIterator[World]:
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
    connection = await asyncpg.connect(shared_url.replace("+asyncpg", ""))
    async with serve(shared_url) as client:
        made = World(client, db, connection, password_hash)
        await made.restore()
        yield made
    await connection.close()
    await db.close()


def test_every_rpc_and_every_field_of_its_request_has_cases() -> None:
    served = {f"{rpc.containing_service.name}.{rpc.name}": rpc for rpc in _contract()}
    assert RPCS.keys() == served.keys()
    for name, rpc in RPCS.items():
        assert rpc.good.DESCRIPTOR.full_name == served[name].input_type.full_name
        assert uncovered(rpc) == [], name


@pytest.mark.parametrize("case", WRONG, ids=str)
async def test_a_wrong_request_is_refused_by_the_table_and_changes_nothing(
    world: World, case: Case
) -> None:
    before = await world.dump()
    refusal = await refusal_of(world.client.raw(case.method, case.request))
    assert (refusal.code, refusal.reason) == (case.outcome.code, case.outcome.reason), refusal
    assert refusal.domain == "byline"
    assert set(refusal.fields) == set(case.outcome.fields)
    assert set(refusal.details) == case.outcome.details
    assert refusal.message
    assert await world.dump() == before


@pytest.mark.parametrize("case", ODD, ids=str)
async def test_what_is_odd_but_legal_is_served(world: World, case: Case) -> None:
    before = await world.dump()
    await world.client.raw(case.method, case.request)
    if await world.dump() != before:
        await world.restore()


def _contract() -> Iterator[MethodDescriptor]:
    """Yields the RPCs of every service in the package byline.v1."""
    for module in pkgutil.iter_modules(byline.v1.__path__, "byline.v1."):
        if module.name.endswith("_pb2"):
            for service in import_module(module.name).DESCRIPTOR.services_by_name.values():
                yield from service.methods
