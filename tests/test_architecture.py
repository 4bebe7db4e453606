"""Rules that the design makes and no linter knows."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent


def _calls(folder: str) -> Iterator[tuple[str, str]]:
    """Every method call below a folder: the file, and the name that is called."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                yield str(path.relative_to(ROOT)), node.func.attr


def test_nothing_but_the_database_module_commits() -> None:
    committing = {
        path
        for folder in ("service", "storage")
        for path, name in _calls(folder)
        if name == "commit"
    }
    assert committing == {"storage/database.py"}


def test_no_servicer_names_a_status_code() -> None:
    aborting = {path for path, name in _calls("service") if name in {"abort", "set_code"}}
    assert aborting == {"service/interceptors.py"}
