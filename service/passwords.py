"""Argon2id, off the event loop, in a pool that takes on only so much."""

from __future__ import annotations

import asyncio
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from service import calls
from service.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")


class Passwords:
    """Hashes passwords and checks them.

    Args:
        time_cost: argon2id passes over memory.
        memory_kib: argon2id memory.
        parallelism: argon2id lanes.
        threads: passwords at work at once.
        queue: passwords that may wait beyond those.
    """

    def __init__(
        self, *, time_cost: int, memory_kib: int, parallelism: int, threads: int, queue: int
    ) -> None:
        self._hasher = PasswordHasher(time_cost, memory_kib, parallelism)
        self._threads = ThreadPoolExecutor(threads, "password")
        self._at_once = threads
        self._most = self._free = threads + queue
        # Checked for logins that do not exist, so that they take as long as those that do.
        self._nobodys_hash = self._hasher.hash("nobody's password")

    async def hash(self, password: str) -> str:
        """Returns the hash of a password, with its parameters and salt, in PHC format.

        Raises:
            Overloaded: when too many passwords wait already.
        """
        return await self._run(lambda: self._hasher.hash(_normalised(password)))

    async def verify(self, known_hash: str | None, password: str) -> bool:
        """Tells whether a password has this hash, in the same time when there is no hash.

        Raises:
            Overloaded: when too many passwords wait already.
        """

        def check() -> bool:
            try:
                return self._hasher.verify(known_hash or self._nobodys_hash, _normalised(password))
            except VerificationError:
                return False

        return await self._run(check) and known_hash is not None

    def is_outdated(self, known_hash: str) -> bool:
        """Tells whether a hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(known_hash)

    @property
    def at_work(self) -> int:
        """How many passwords are hashed at this moment."""
        return min(self._most - self._free, self._at_once)

    @property
    def waiting(self) -> int:
        """How many passwords wait to be hashed."""
        return self._most - self._free - self.at_work

    def close(self) -> None:
        """Ends the threads once they have done what waits."""
        self._threads.shutdown()

    async def _run(self, work: Callable[[], Result]) -> Result:
        if self._free == 0:
            raise Overloaded
        self._free -= 1
        loop = asyncio.get_running_loop()
        call, began = calls.current.get(), perf_counter()

        def work_in_turn() -> Result:
            call.queue += perf_counter() - began
            return work()

        done = self._threads.submit(work_in_turn)
        # A caller who leaves does not free the place: the thread works on.
        done.add_done_callback(lambda _: loop.call_soon_threadsafe(self._release))
        return await asyncio.wrap_future(done)

    def _release(self) -> None:
        self._free += 1


def hash_with_salt(password: str, salt: str) -> str:
    """Returns the hash of a password that is no secret, the same for the same salt."""
    return PasswordHasher().hash(_normalised(password), salt=salt.encode())


def _normalised(password: str) -> bytes:
    """One spelling of a password, however its accents were typed (RFC 8265, OpaqueString)."""
    return unicodedata.normalize("NFC", password).encode()
