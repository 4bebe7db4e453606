"""The Byline after this one: the same, but for steps that its schema is further."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import migrations
from tests.processes import Running

HERE = Path(migrations.__file__).parent
REVISIONS = sorted(path.name[:4] for path in HERE.glob("versions/*.py"))
HEAD = REVISIONS[-1]
STEP = '''\
"""A later step."""

import sqlalchemy as sa
from alembic import op

from migrations import online

revision = "{revision}"
down_revision = "{before}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies the change."""
    {up}


def downgrade() -> None:
    """Takes the change back."""
    {down}
'''


class Step(NamedTuple):
    """A change of the schema.

    Args:
        up: the Python that makes it, one line.
        down: the Python that takes it back.
    """

    up: str
    down: str = "pass"


class Ended(NamedTuple):
    """How a migrator ended, and what it said: its output and then its complaint."""

    status: int | None
    said: str


class Later:
    """A later Byline, in a folder where Python finds its migrations before this one's.

    Args:
        folder: where it is made.
        steps: what it does to the schema that this Byline expects.
    """

    def __init__(self, folder: Path, *steps: Step) -> None:
        self.folder = folder
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(HERE, folder / "migrations", ignore=skipped)
        self.head = HEAD
        for step in steps:
            before, self.head = self.head, f"{int(self.head) + 1:04}"
            text = STEP.format(revision=self.head, before=before, **step._asdict())
            (folder / f"migrations/versions/{self.head}_later.py").write_text(text)

    async def migrate(self, url: str, *arguments: str) -> Ended:
        """Runs its `byline migrate` to the end."""
        return Ended(*await self.start(url, *arguments).ended())

    async def complete(self, url: str) -> Ended:
        """Brings a database of any kind to its head."""
        command = f"import migrations; migrations.up({url!r})"
        return Ended(*await Running(sys.executable, "-c", command, folder=self.folder).ended())

    def start(self, url: str, *arguments: str, module: str = "service.start") -> Running:
        """Starts its `byline migrate`."""
        command = (sys.executable, "-m", module, "migrate", *arguments, "--database-url", url)
        return Running(*command, folder=self.folder)
