"""Public keys that JSON Web Tokens are checked with: a JWKS in a file, or at a URL."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from http.client import HTTPException
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol
from urllib.request import urlopen

import structlog
from jwt import PyJWK, PyJWKSet, PyJWTError

from service.errors import KeysUnreachable
from service.files import Watched

if TYPE_CHECKING:
    from collections.abc import Callable

# No `none`, and no HMAC: with it, whoever can check a token can make one.
ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA"})
# Seconds after which keys are fetched anew; those that are known count meanwhile.
LIFETIME = 300.0
# Seconds between fetches at least, however many tokens name a key that is not known.
COOLDOWN = 10.0
# Seconds that a fetch may take, and the bytes that it may bring.
PATIENCE = 5.0
LARGEST = 1 << 20

Keys = tuple[PyJWK, ...]

log = structlog.get_logger("byline.keys")


class KeySource(Protocol):
    """Where keys come from. The same keys are the same object."""

    def current(self) -> Keys:
        """Returns the keys that are known, none when there are none yet."""

    async def renewed(self) -> Keys:
        """Returns the keys after a look whether there are others, if it is time for one.

        Raises:
            KeysUnreachable: when none are known, and none can be had.
        """


def key_source(where: str) -> KeySource:
    """Returns the source of the keys that a file or a URL has.

    Raises:
        FileError: when the file is no JWKS with a key that can be used.
    """
    if is_url(where):
        return FetchedKeys(partial(_fetch, where))
    return KeysInFile(Path(where))


def is_url(where: str) -> bool:
    """Tells a URL from a file."""
    return "://" in where


class KeysInFile:
    """A JWKS in a file, which is read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._watched = Watched(read_keys, path)

    def current(self) -> Keys:
        """Returns what the file says."""
        return self._watched.current()

    async def renewed(self) -> Keys:
        """Returns what the file says."""
        return self._watched.current()


class FetchedKeys:
    """A JWKS that somebody else serves.

    Args:
        fetch: returns it, blocking; raises OSError or ValueError when it cannot be had.
        lifetime: seconds after which it is fetched anew.
        cooldown: seconds between fetches at least.
    """

    def __init__(
        self,
        fetch: Callable[[], bytes],
        *,
        lifetime: float = LIFETIME,
        cooldown: float = COOLDOWN,
    ) -> None:
        self._fetch = fetch
        self._lifetime = lifetime
        self._cooldown = cooldown
        self._tried = float("-inf")
        self._content = b""
        self._keys: Keys = ()
        self._fetching: asyncio.Task[None] | None = None

    def current(self) -> Keys:
        """Returns the keys that are known; once they are old, others are fetched meanwhile."""
        if monotonic() - self._tried >= self._lifetime:
            self._begin()
        return self._keys

    async def renewed(self) -> Keys:
        """Returns the keys after a fetch, which all who wait share, unless one was just made."""
        if monotonic() - self._tried >= self._cooldown:
            self._begin()
        if self._fetching is not None:
            # Others wait for it when one of them leaves.
            await asyncio.shield(self._fetching)
        if not self._keys:
            raise KeysUnreachable
        return self._keys

    def _begin(self) -> None:
        self._tried = monotonic()
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        try:
            content = await asyncio.to_thread(self._fetch)
            if content != self._content:
                self._keys = read_keys(content)
                self._content = content
                log.info("keys fetched", ids=[key.key_id for key in self._keys])
        except (OSError, ValueError, HTTPException) as error:
            log.warning("keys refused, the last count", reason=str(error))
        finally:
            self._fetching = None


def read_keys(content: bytes) -> Keys:
    """Returns the keys of a JWKS that signatures can be checked with.

    Raises:
        ValueError: when it is none, or has none.
    """
    try:
        found: Any = json.loads(content)
        usable = tuple(
            key
            for key in PyJWKSet.from_dict(found)
            if key.algorithm_name in ALGORITHMS and key.public_key_use in {None, "sig"}
        )
    except (PyJWTError, AttributeError, ValueError):
        usable = ()
    if not usable:
        raise ValueError("there is no JWKS with a key for RS, ES or EdDSA")
    return usable


def _fetch(url: str) -> bytes:
    with urlopen(url, timeout=PATIENCE) as response:  # noqa: S310 - the settings take https alone
        content: bytes = response.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"{url} has more than {LARGEST} bytes")
    return content
