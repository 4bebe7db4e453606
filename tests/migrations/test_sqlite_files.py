"""What is said of a file that a SQLite database is to be in, and of one that is in use."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import migrations
from migrations import MigrationError, State
from tests.migrations.killed import killed
from tests.processes import Running, until

if TYPE_CHECKING:
    from collections.abc import Callable

run = asyncio.to_thread
MIGRATE = "import sys, migrations; migrations.up(sys.argv[1])"


def url_of(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


async def test_a_file_that_is_not_there_is_made_and_empty(tmp_path: Path) -> None:
    status = await run(migrations.status, url_of(tmp_path / "byline.db"))
    assert (status.state, status.current) == (State.BEHIND, None)


@pytest.mark.parametrize("action", [migrations.status, migrations.up, migrations.down])
def test_a_file_that_is_no_database_is_named_and_left_alone(
    tmp_path: Path, action: Callable[[str], object]
) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Poetical science." * 100)
    with pytest.raises(MigrationError) as error:
        action(url_of(path))
    assert str(error.value) == f"the database cannot be reached: {path}: file is not a database"
    assert path.read_text() == "Poetical science." * 100
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["missing/byline.db", ".", "file/byline.db"])
async def test_a_file_that_cannot_be_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MigrationError) as error:
        await run(migrations.status, url_of(tmp_path / place))
    assert str(error.value) == (
        f"the database cannot be reached: {tmp_path / place}: unable to open database file"
    )


def test_a_folder_that_may_not_be_written_is_named() -> None:
    # Root may write anywhere but here.
    folder = Path("/proc/self")
    with pytest.raises(MigrationError, match=f"{folder}/byline.db: unable to open"):
        migrations.status(url_of(folder / "byline.db"))


async def test_a_migrator_that_is_killed_between_steps_has_made_none(tmp_path: Path) -> None:
    url = url_of(tmp_path / "byline.db")
    for moment in (20, 40):
        assert await killed(moment, "up", url, "head")
        assert (await run(migrations.status, url)).current is None
    await run(migrations.up, url)
    await run(migrations.check, url)


async def test_where_a_schema_stands_is_told_while_another_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "byline.db"
    await run(migrations.up, url_of(path), "0001")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert (await run(migrations.status, url_of(path))).current == "0001"


async def test_migrators_wait_for_whoever_writes_and_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "byline.db"
    await run(migrations.up, url_of(path), "0001")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        migrators = [Running(sys.executable, "-c", MIGRATE, url_of(path)) for _ in range(2)]
        await until(lambda: all(opened(each.pid, path) for each in migrators))
        assert (await run(migrations.status, url_of(path))).current == "0001"
        other.execute("ROLLBACK")
    assert [await each.ended() for each in migrators] == [(0, ""), (0, "")]
    await run(migrations.check, url_of(path))


async def test_migrators_that_meet_at_a_file_that_is_not_there_take_turns(tmp_path: Path) -> None:
    url = url_of(tmp_path / "byline.db")
    migrators = [Running(sys.executable, "-c", MIGRATE, url) for _ in range(3)]
    assert [await each.ended() for each in migrators] == [(0, "")] * 3
    await run(migrations.check, url)


def opened(pid: int, path: Path) -> bool:
    """Tells whether a process has the database open."""
    wal = Path(f"{path}-wal")
    return any(file_of(each) == wal for each in Path(f"/proc/{pid}/fd").iterdir())


def file_of(descriptor: Path) -> Path | None:
    """What a process has open by a descriptor; None if it has closed it meanwhile."""
    try:
        return descriptor.readlink()
    except FileNotFoundError:
        return None
