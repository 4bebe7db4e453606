"""Runs a command as another user, as `python -m storage.unprivileged USER COMMAND...`.

PostgreSQL refuses to run as root. Where root starts Byline, its embedded server runs as an ordinary
user, who may not enter root's folders. Opening those folders to everybody would be the wrong way
round: the command keeps one capability instead, which lets it pass through them to its own files
(capabilities(7)).
"""

from __future__ import annotations

import ctypes
import os
import pwd
import sys

# The numbers of prctl(2) and of capget(2).
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def become(name: str) -> None:
    """Turns this process into one of the named user's that can still pass through any folder.

    A container may have taken the capability away; then the user passes where its folders let it.
    """
    user = pwd.getpwnam(name)
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = _Header(_CAPABILITY_VERSION_3, 0), (_Data * 2)()
    libc.capget(ctypes.byref(header), ctypes.byref(data))
    held = [
        capability
        for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE)
        if data[0].permitted & 1 << capability
    ]
    libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    # The narrower one, if there is a choice: it reads and searches, and never writes.
    for capability in held[:1]:
        data[0].effective = data[0].permitted = data[0].inheritable = 1 << capability
        data[1].effective = data[1].permitted = data[1].inheritable = 0
        libc.capset(ctypes.byref(header), ctypes.byref(data))
        libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0)


def main() -> None:
    """Becomes the user and runs the command in this process's place."""
    _, user, *command = sys.argv
    become(user)
    os.execv(command[0], command)  # noqa: S606 - a fixed command, no shell


if __name__ == "__main__":
    main()
