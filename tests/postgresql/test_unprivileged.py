"""What is left of root when it runs a command as another user."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

# The numbers of capabilities(7).
OVERRIDE, READ_SEARCH = 1, 2
# Runs a command as a container does that was not given some capabilities.
WITHOUT = """
import ctypes, os, sys
PR_CAPBSET_DROP = 24
for capability in sys.argv[1].split():
    assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, int(capability), 0, 0, 0) == 0
os.execv(sys.argv[2], sys.argv[2:])
"""
TRY = 'cat /proc/self/status; cat "$1"; echo changed > "$1"'


class Tried(NamedTuple):
    """Who a command ran as, and what it could do to a file in a folder of root's own.

    Args:
        uids: real, effective, saved and of the file system.
        gids: the same of the group.
        groups: further groups.
        capabilities: those that it had in effect, and hands on.
        read: whether it could read the file.
        wrote: whether it could write it.
    """

    uids: set[int]
    gids: set[int]
    groups: list[str]
    capabilities: list[int]
    read: bool
    wrote: bool


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that only root may read, in a folder that only root may enter."""
    tmp_path.chmod(0o700)
    file = tmp_path / "secret"
    file.write_text("treasure")
    file.chmod(0o600)
    return file


def try_as_nobody(secret: Path, *dropped: int) -> Tried:
    program = (sys.executable, "-P", "-m", "storage.unprivileged", "nobody")
    command = (sys.executable, "-c", WITHOUT, " ".join(map(str, dropped)), *program)
    done = subprocess.run(  # noqa: S603 - a fixed command
        [*command, "/bin/sh", "-c", TRY, "sh", str(secret)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.partition(":\t") for line in done.stdout.splitlines()]
    status = {name: value for name, colon, value in lines if colon}
    sets = {status[name] for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")}
    assert len(sets) == 1
    held = int(sets.pop(), 16)
    return Tried(
        {int(number) for number in status["Uid"].split()},
        {int(number) for number in status["Gid"].split()},
        status["Groups"].split(),
        [number for number in range(64) if held & 1 << number],
        "treasure" in done.stdout,
        secret.read_text() == "changed\n",
    )


def test_it_is_the_user_and_nobody_else_and_reads_past_closed_folders(secret: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    tried = try_as_nobody(secret)
    assert (tried.uids, tried.gids, tried.groups) == ({nobody.pw_uid}, {nobody.pw_gid}, [])
    assert tried.capabilities == [READ_SEARCH]
    assert tried.read
    assert not tried.wrote


def test_where_the_narrower_capability_is_missing_it_keeps_the_wider_one(secret: Path) -> None:
    assert try_as_nobody(secret, READ_SEARCH).capabilities == [OVERRIDE]


def test_without_capabilities_it_is_an_ordinary_user(secret: Path) -> None:
    tried = try_as_nobody(secret, READ_SEARCH, OVERRIDE)
    assert tried.uids == {pwd.getpwnam("nobody").pw_uid}
    assert tried.capabilities == []
    assert not tried.read
    assert not tried.wrote
