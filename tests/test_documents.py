"""The documents say what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.config import Settings

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"^\| `BYLINE_(\w+)` \| (.*?) \| (.*) \|$", re.MULTILINE)


def _rows() -> dict[str, tuple[str, str]]:
    readme = (ROOT / "README.md").read_text()
    return {name.lower(): (default, text) for name, default, text in ROW.findall(readme)}


def test_the_table_of_settings_is_complete() -> None:
    assert list(_rows()) == list(Settings.model_fields)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_table_of_settings_is_right(name: str) -> None:
    default, text = _rows()[name]
    field = Settings.model_fields[name]
    assert text == field.description
    if field.default_factory is None and field.default is not None:
        assert default == _shown(field.default)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_the_table_of_alerts_is_complete() -> None:
    rules = (ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text()
    told = re.findall(
        r"^\| `(Byline\w+)` \|", (ROOT / "docs/operations.md").read_text(), re.MULTILINE
    )
    assert told == re.findall(r"- alert: (\w+)$", rules, re.MULTILINE)


def test_every_file_that_a_document_links_to_is_there() -> None:
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
