"""The measurement of overload runs, and says what it offered and what came of it."""

from __future__ import annotations

import re

import pytest

from bench import overload

ROW = re.compile(r"^\| ([\d.]+)x \| (\d+) \| (\d+) \|", re.MULTILINE)


@pytest.mark.long
def test_every_load_is_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = (1, 4)
    few = [subject._replace(times=times) for subject in overload.SUBJECTS]
    monkeypatch.setattr(overload, "SUBJECTS", few)
    assert overload.main(("--seconds", "0.3")) == 0
    rows = ROW.findall(capsys.readouterr().out)
    assert [float(part) for part, _, _ in rows] == [*times, *times, *times]
    assert all(int(served) > 0 for _, _, served in rows)
