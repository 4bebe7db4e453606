"""Argon2id in threads: what a hash says, and how much work is taken on."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
from argon2 import PasswordHasher, Type, extract_parameters

from service.errors import Overloaded
from service.passwords import Passwords
from tests.processes import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICK = {"time_cost": 1, "memory_kib": 8, "parallelism": 1}


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    """One thread, and one password that may wait for it."""
    made = Passwords(**QUICK, threads=1, queue=1)
    yield made
    made.close()


class Hold:
    """Holds a thread up."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.ended = threading.Event()


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch, passwords: Passwords) -> Iterator[Hold]:
    """Holds every hash up until it is ended. The passwords themselves were made before."""
    del passwords
    held = Hold()

    def wait(_: PasswordHasher, password: bytes) -> str:
        held.reached.set()
        # A hash that should have been refused ends, too, and its test fails.
        held.ended.wait(PATIENCE)
        return password.decode()

    monkeypatch.setattr(PasswordHasher, "hash", wait)
    yield held
    held.ended.set()


async def test_a_hash_is_argon2id_with_the_parameters_asked_for(passwords: Passwords) -> None:
    parameters = extract_parameters(await passwords.hash("correct horse"))
    assert parameters.type is Type.ID
    assert (parameters.time_cost, parameters.memory_cost, parameters.parallelism) == (1, 8, 1)


async def test_no_two_hashes_are_the_same(passwords: Passwords) -> None:
    assert await passwords.hash("correct horse") != await passwords.hash("correct horse")


@pytest.mark.parametrize(
    ("shown", "matches"),
    [
        ("caf\u00e9 au lait", True),
        ("cafe\u0301 au lait", True),  # the accent typed by itself
        ("cafe au lait", False),
        ("Caf\u00e9 au lait", False),
        ("caf\u00e9 au lait ", False),
        ("", False),
    ],
)
async def test_only_the_password_itself_matches(
    passwords: Passwords, shown: str, *, matches: bool
) -> None:
    known = await passwords.hash("caf\u00e9 au lait")
    assert await passwords.verify(known, shown) is matches


async def test_nobody_has_no_password_and_takes_as_much_work_as_anybody(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked: list[object] = []
    verify = PasswordHasher.verify

    def counted(self: PasswordHasher, known: str | bytes, password: str | bytes) -> bool:
        worked.append(extract_parameters(str(known)))
        return bool(verify(self, known, password))

    monkeypatch.setattr(PasswordHasher, "verify", counted)
    known = await passwords.hash("correct horse")
    assert not await passwords.verify(known, "wrong horse")
    for shown in ("wrong horse", "nobody's password"):
        assert not await passwords.verify(None, shown)
    assert worked == [extract_parameters(known)] * 3


@pytest.mark.parametrize(
    ("changed", "outdated"),
    [({}, False), ({"time_cost": 2}, True), ({"memory_kib": 16}, True)],
)
async def test_a_hash_is_outdated_when_the_parameters_have_changed(
    passwords: Passwords, changed: dict[str, int], *, outdated: bool
) -> None:
    others = Passwords(**QUICK | changed, threads=1, queue=0)
    assert passwords.is_outdated(await others.hash("correct horse")) is outdated
    others.close()


async def test_more_than_the_threads_and_the_queue_hold_is_refused(
    passwords: Passwords, hold: Hold
) -> None:
    first, second = await begin(passwords, hold)
    with pytest.raises(Overloaded):
        await passwords.hash("third")
    with pytest.raises(Overloaded):
        await passwords.verify(None, "third")
    hold.ended.set()
    assert (await first, await second) == ("first", "second")
    assert await passwords.hash("third") == "third"


async def test_a_caller_who_leaves_frees_no_place_before_the_thread_is_done(
    passwords: Passwords, hold: Hold
) -> None:
    first, second = await begin(passwords, hold)
    first.cancel()
    await asyncio.wait([first])
    with pytest.raises(Overloaded):
        await passwords.hash("third")
    hold.ended.set()
    await second
    assert await passwords.hash("third") == "third"


async def test_a_caller_who_leaves_before_their_turn_frees_the_place(
    passwords: Passwords, hold: Hold
) -> None:
    first, second = await begin(passwords, hold)
    second.cancel()
    await asyncio.wait([second])
    third = asyncio.ensure_future(passwords.hash("third"))
    hold.ended.set()
    assert (await first, await third) == ("first", "third")


async def begin(passwords: Passwords, hold: Hold) -> tuple[asyncio.Task[str], asyncio.Task[str]]:
    """Begins two hashes: one that the thread is at, and one that waits for it."""
    first = asyncio.ensure_future(passwords.hash("first"))
    await until(hold.reached.is_set)
    second = asyncio.ensure_future(passwords.hash("second"))
    await asyncio.sleep(0)
    return first, second
