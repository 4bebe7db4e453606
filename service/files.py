"""Files that are read again when they change; a broken one leaves what the last good one said."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Generic, TypeVar

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Value = TypeVar("Value")

# Seconds between looks at a file that every call depends on.
EVERY = 1.0

log = structlog.get_logger("byline.files")


class FileError(Exception):
    """A file that a server cannot start with, and what is wrong with it, in one line."""


class Watched(Generic[Value]):
    """What files say. Whoever asks has them looked at; contents count, since times may mislead.

    Args:
        read: makes the value of the files' contents, or raises ValueError with one line.
        paths: the files.
        every: seconds between looks, at least.

    Raises:
        FileError: when the files say nothing to begin with.
    """

    def __init__(self, read: Callable[..., Value], *paths: Path, every: float = EVERY) -> None:
        self._read = read
        self._paths = paths
        self._every = every
        self._next = monotonic() + every
        self._complaint = ""
        try:
            self._contents = self._look()
            self._value = read(*self._contents)
        except (OSError, ValueError) as error:
            raise FileError(f"{self._names}: {_reason(error)}") from None

    def current(self) -> Value:
        """Returns what the files say, or said when they could last be read."""
        now = monotonic()
        if now >= self._next:
            self._next = now + self._every
            self._renew()
        return self._value

    def _renew(self) -> None:
        try:
            contents = self._look()
            if contents != self._contents:
                self._value = self._read(*contents)
                self._contents = contents
                log.info("file read again", files=self._names)
        except (OSError, ValueError) as error:
            complaint = _reason(error)
            if complaint != self._complaint:
                log.warning("file refused, the last counts", files=self._names, reason=complaint)
            self._complaint = complaint
        else:
            self._complaint = ""

    def _look(self) -> tuple[bytes, ...]:
        return tuple(path.read_bytes() for path in self._paths)

    @property
    def _names(self) -> str:
        return ", ".join(map(str, self._paths))


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
