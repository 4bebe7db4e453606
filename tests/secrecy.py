"""Looks through all that is logged anywhere in the tests for what no log may have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests import factories

if TYPE_CHECKING:
    import pytest

# How every password hash begins, the password that users have unless a test says otherwise, and a
# password of a database that URLs of tests have.
SECRETS = ("$argon2", factories.PASSWORD, "ada:secret@")


def leaked(text: str) -> list[str]:
    """Returns the secrets that a text has."""
    return [secret for secret in SECRETS if secret in text]


def check(text: str) -> None:
    """Fails when a text that a server wrote has a secret."""
    assert not leaked(text), f"a log has {leaked(text)}"


def fail_if_leaked(report: pytest.TestReport) -> None:
    """Turns a test into a failure that logged a secret in this process."""
    for name, text in report.sections:
        if found := leaked(text):
            report.outcome = "failed"
            report.longrepr = f"{name} has {found}"
