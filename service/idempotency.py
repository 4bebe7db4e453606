"""Calls that may be sent twice: one effect, and the first call's answer each time.

The effect, the request id and the answer commit together, so that whoever finds the one finds the
others. No servicer knows of this: it opens its transaction as ever, and does not commit it.
"""

from __future__ import annotations

import asyncio
import hmac
from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID
from weakref import WeakValueDictionary

from service.calls import encoded
from service.errors import RequestIdReused
from service.identity import caller
from storage import requests
from storage.database import unit
from storage.requests import AlreadyAnswered

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.message import Message

    from service.passwords import Passwords
    from storage.database import Database

    Serve = Callable[[], Awaitable[Message]]
    Answer = Callable[[], Awaitable[bytes]]
    Retry = Callable[[Answer], Awaitable[bytes]]

REQUEST_ID_FIELD = "request_id"
# Messages of other packages, such as a Timestamp, are values to a caller.
OURS = "byline."
# Bytes of a digest that are kept: two values with the same ones are not to be found.
DIGEST_BYTES = 16


class Part(NamedTuple):
    """A field of a request that is set.

    Args:
        path: `user.full_name`.
        is_secret: whether the contract says that it must not be shown.
        value: as it is on the wire.
    """

    path: str
    is_secret: bool
    value: bytes


class Idempotency:
    """Serves calls that carry a request id.

    Args:
        database: where the answers are kept, and the effects of the calls.
        passwords: slows down whoever would guess at secret fields.
        key: what digests are made with; None takes the one that the database keeps.
    """

    def __init__(self, database: Database, passwords: Passwords, key: bytes | None) -> None:
        self._database = database
        self._passwords = passwords
        self._key = key
        self._gates: WeakValueDictionary[requests.Key, asyncio.Lock] = WeakValueDictionary()

    async def answer(self, method: str, request: Message, serve: Serve, retry: Retry) -> bytes:
        """Returns the serialized answer: the one that was given before, or else the servicer's.

        Args:
            method: which RPC.
            request: with a request id.
            serve: serves the request by the servicer.
            retry: tries again what others are in the way of.

        Raises:
            RequestIdReused: when another request came with the same id.
            Exception: what the servicer raises.
        """
        key = requests.Key(caller.get(), method, UUID(getattr(request, REQUEST_ID_FIELD)))
        gate = self._gates.setdefault(key, asyncio.Lock())
        # Any number of calls may wait here for the first of them, without a connection. Those that
        # another server took wait in the database.
        async with gate:
            parts = {part.path: part for part in _parts(request)}
            digests = await self._digests(key, parts.values())
            secrets = [path for path, part in parts.items() if part.is_secret]
            try:
                # What makes the servicer hash passwords is not done for nothing.
                if secrets:
                    await self._look(key)
                hashed = {path: await self._passwords.hash(digests[path]) for path in secrets}
                return await retry(partial(self._serve, key, digests | hashed, serve))
            except AlreadyAnswered as already:
                found = already.found
            if differing := await self._differing(found.digests, digests, secrets):
                raise RequestIdReused(differing)
            return found.answer

    async def _serve(self, key: requests.Key, digests: Mapping[str, str], serve: Serve) -> bytes:
        """Serves the call, and keeps its answer along with its effect."""
        claim = requests.Claim(key, digests)
        async with unit(partial(requests.claim, wanted=claim)) as work:
            requests.claim_of_call.set(claim)
            try:
                response = await serve()
            except AlreadyAnswered:
                raise
            except Exception:
                # It failed on what it read before its transaction, which may have been the effect
                # of this very call: another server took it and has answered meanwhile.
                if work.is_untouched:
                    await self._look(key)
                raise
            answer = encoded(response)
            if work.tx is not None:
                await requests.keep(work.tx, key, answer)
            return answer

    async def _look(self, key: requests.Key) -> None:
        """Raises `AlreadyAnswered` when the call was answered."""
        async with self._database.read() as read:
            found = await requests.find(read, key)
        if found is not None:
            raise AlreadyAnswered(found)

    async def _differing(
        self, known: Mapping[str, str], given: Mapping[str, str], secrets: Sequence[str]
    ) -> list[str]:
        """Returns the paths at which two requests differ."""
        differing = {path for path in known.keys() | given if known.get(path) != given.get(path)}
        for path in differing.intersection(known, given, secrets):
            if await self._passwords.verify(known[path], given[path]):
                differing.remove(path)
        return sorted(differing)

    async def _digests(self, key: requests.Key, parts: Iterable[Part]) -> dict[str, str]:
        """Returns the digest of each part by its path. They tell nothing to who lacks the key.

        Those of secrets are to be hashed as passwords are before they are kept.
        """
        if self._key is None:
            async with self._database.transaction() as tx:
                self._key = await requests.shared_key(tx)
        # The same value in two calls has two digests.
        salt = key.request_id.bytes + key.method.encode()
        secret = hmac.digest(self._key, salt, "sha256")
        return {part.path: _digest(secret, part) for part in parts}


def _digest(secret: bytes, part: Part) -> str:
    digest = hmac.digest(secret, part.path.encode() + b"\0" + part.value, "sha256")
    return digest[:DIGEST_BYTES].hex()


def _parts(message: Message, prefix: str = "") -> Iterator[Part]:
    """Yields the fields that are set, but for the request id.

    A message of ours stands for its own fields, unless there are none or it is one of many.
    """
    for field, value in message.ListFields():
        path = prefix + field.name
        if path == REQUEST_ID_FIELD:
            continue
        if _is_nested(field) and value.ListFields():
            yield from _parts(value, f"{path}.")
        else:
            alone = type(message)(**{field.name: value})
            yield Part(path, _is_secret(field), alone.SerializeToString(deterministic=True))


def _is_nested(field: FieldDescriptor) -> bool:
    inner: Descriptor | None = field.message_type
    return inner is not None and not field.is_repeated and inner.full_name.startswith(OURS)


def _is_secret(field: FieldDescriptor) -> bool:
    """Tells whether the contract says that the field, or one within it, must not be shown."""
    seen: set[str] = set()
    within = [field]
    while within:
        each = within.pop()
        if each.GetOptions().debug_redact:
            return True
        inner: Descriptor | None = each.message_type
        if inner is not None and inner.full_name not in seen:
            seen.add(inner.full_name)
            within += inner.fields
    return False
