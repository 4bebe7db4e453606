"""Which function of storage a statement is of."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import CodeType, FrameType

OTHER = "other"
# What every function of storage goes through, and none is known by.
_SHARED = ("storage.database", "storage.sessions", "storage.dialects", "storage.keyset")

_names: dict[CodeType, str] = {}


def calling_function() -> str:
    """Returns the function of storage that is about to send a statement, as `users.get`.

    It is looked up on the stack, which costs less than telling it with every statement would, and
    leaves no function out.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - there is no other way to the stack
    while frame is not None and not _is_known_by(frame):
        frame = frame.f_back
    if frame is None:
        return OTHER
    module = frame.f_globals
    while frame.f_back is not None and frame.f_back.f_globals is module:
        frame = frame.f_back
    name = _names.get(frame.f_code)
    if name is None:
        file = module["__name__"].removeprefix("storage.")
        name = _names[frame.f_code] = f"{file}.{frame.f_code.co_name}"
    return name


def _is_known_by(frame: FrameType) -> bool:
    name: str = frame.f_globals["__name__"]
    return name.startswith("storage.") and not name.startswith(_SHARED) and name != __name__
