"""Who may do what: a TOML file that names callers and the access they have.

[[callers]]
identity = "spiffe://example.com/ns/*/sa/web"
access = "write"

[[callers]]
identity = "nightly"
access = "read"
rpcs = ["byline.v1.CreditService/Grant"]
"""

from __future__ import annotations

import re
import tomllib
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from byline.v1 import access_pb2
from google.protobuf import descriptor_pool
from pydantic import BaseModel, ConfigDict, Field, ValidationError

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor

Access = access_pb2.Access
Level = Literal["read", "write", "admin"]

# Identities whose grants are kept worked out: tokens can name any number.
MOST_KNOWN = 4096
_WILD = {"*": "[^/]*", "**": ".*"}


class Grant(NamedTuple):
    """What a caller may do.

    Args:
        access: RPCs that need no more than this.
        rpcs: full names of RPCs whatever they need.
    """

    access: Access.ValueType
    rpcs: frozenset[str]


class _Callers(BaseModel):
    """An entry of the file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    identity: str = Field(min_length=1)
    access: Level | None = None
    rpcs: list[str] = []


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    callers: list[_Callers] = []


class Policy:
    """Which callers have which access. All entries that fit a caller add up.

    Args:
        content: the file's, in TOML. In an identity `*` stands for any text without a slash, and
            `**` for any text.

    Raises:
        ValueError: when it is not TOML, has what is not known, or names an RPC that is not there.
    """

    def __init__(self, content: bytes) -> None:
        try:
            file = _File.model_validate(tomllib.loads(content.decode()))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{where}: {first['msg']}") from None
        for rpc in (rpc for each in file.callers for rpc in each.rpcs):
            _check(rpc)
        self._entries = [(_pattern(each.identity), _grant(each)) for each in file.callers]
        self._grant_of = lru_cache(MOST_KNOWN)(self._work_out)

    def allows(self, caller: str, rpc: str, needed: Access.ValueType) -> bool:
        """Tells whether a caller may call an RPC, `byline.v1.UserService/GetUser`.

        Args:
            caller: an identity.
            rpc: its full name.
            needed: the access that it needs.
        """
        grant = self._grant_of(caller)
        return grant.access >= needed or rpc in grant.rpcs

    def _work_out(self, caller: str) -> Grant:
        grants = [grant for pattern, grant in self._entries if pattern.fullmatch(caller)]
        return Grant(
            max((grant.access for grant in grants), default=Access.ACCESS_UNSPECIFIED),
            frozenset[str]().union(*(grant.rpcs for grant in grants)),
        )


def access_named(level: Level) -> Access.ValueType:
    """Returns the access that a file or a setting calls `read`, `write` or `admin`."""
    return Access.Value(f"ACCESS_{level.upper()}")


def name_of(access: Access.ValueType) -> str:
    """Returns what a file or a setting calls an access."""
    return Access.Name(access).removeprefix("ACCESS_").lower()


def access_needed(method: MethodDescriptor) -> Access.ValueType:
    """Returns the access that the contract says an RPC needs.

    Raises:
        LookupError: when it says nothing, and nobody can be let in.
    """
    needed: Access.ValueType = method.GetOptions().Extensions[access_pb2.access]
    if needed == Access.ACCESS_UNSPECIFIED:
        raise LookupError(f"{method.full_name} does not say which access it needs")
    return needed


def _grant(entry: _Callers) -> Grant:
    access = access_named(entry.access) if entry.access else Access.ACCESS_UNSPECIFIED
    return Grant(access, frozenset(entry.rpcs))


def _check(rpc: str) -> None:
    service, slash, method = rpc.partition("/")
    try:
        descriptor_pool.Default().FindMethodByName(f"{service}.{method}")
    except KeyError:
        raise ValueError(f"{rpc!r} is no RPC; one is byline.v1.UserService/GetUser") from None
    if not slash:
        raise ValueError(f"{rpc!r} is no RPC; one is byline.v1.UserService/GetUser")


def _pattern(glob: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*?)", glob)
    return re.compile("".join(_WILD.get(part) or re.escape(part) for part in parts))
