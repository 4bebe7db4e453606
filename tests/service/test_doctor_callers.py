"""What `byline doctor` finds of the files that say who may call."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.certificates import A_DAY, SERVER, Authority, Pair, TlsFiles, put
from tests.doctors import examine, lines_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Command, Ended

# It has nothing to do with the database.
ENGINES = ("sqlite",)


@pytest.fixture
def tls(tmp_path: Path) -> TlsFiles:
    folder = tmp_path / "tls"
    folder.mkdir()
    return TlsFiles(folder)


def with_tls(byline: Command, url: str, tls: TlsFiles) -> Ended:
    flags = [f"--{name.replace('_', '-')}={path}" for name, path in tls.settings.items()]
    return examine(byline, url, *flags)


@pytest.mark.parametrize(
    ("begins", "outcome", "words"),
    [
        (-A_DAY, "ok", "is valid for 28 more days"),
        (-25 * A_DAY, "FAIL", r"expires in 4 days, on \d{4}-\d\d-\d\d; renew it"),
        (-33 * A_DAY - timedelta(hours=1), "FAIL", r"expired 3 days ago, on .*; renew it"),
        (A_DAY, "FAIL", "is not valid before .* look at the clock"),
    ],
    ids=["valid", "expires", "expired", "early"],
)
def test_a_certificate_says_how_long_it_is_valid(  # noqa: PLR0913, PLR0917 - a case
    byline: Command, database_url: str, tls: TlsFiles, begins: timedelta, outcome: str, words: str
) -> None:
    tls.write(Authority().issue(*SERVER, begins=begins))
    ended = with_tls(byline, database_url, tls)
    found, told = lines_of(ended)["tls"]
    assert (ended.status, found) == (0 if outcome == "ok" else 1, outcome)
    assert re.search(words, told)


def test_a_key_that_is_another_certificates_is_found(
    byline: Command, database_url: str, tls: TlsFiles
) -> None:
    first, second = (Authority().issue(*SERVER) for _ in range(2))
    tls.write(Pair(first.certificate, second.key))
    ended = with_tls(byline, database_url, tls)
    outcome, told = lines_of(ended)["callers"]
    assert (ended.status, outcome) == (1, "FAIL")
    assert "the key is not the certificate's" in told


def test_a_file_that_is_no_certificate_is_found(
    byline: Command, database_url: str, tls: TlsFiles
) -> None:
    tls.write(Authority().issue(*SERVER))
    put(tls.settings["tls_certificate"], b"nonsense")
    ended = with_tls(byline, database_url, tls)
    assert ended.status == 1
    for name in ("callers", "tls"):
        outcome, told = lines_of(ended)[name]
        assert outcome == "FAIL"
        assert "there is no certificate in PEM" in told


def test_an_address_that_others_can_reach_without_tls_is_found(
    byline: Command, database_url: str
) -> None:
    ended = byline("doctor", "--database-url", database_url, "--listen", "0.0.0.0:0")
    outcome, told = lines_of(ended)["callers"]
    assert (ended.status, outcome) == (1, "FAIL")
    assert "--insecure" in told
