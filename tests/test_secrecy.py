"""The look that every test's logs get finds what they may not have."""

from __future__ import annotations

import pytest

from tests import factories, secrecy


@pytest.mark.parametrize("secret", [factories.PASSWORD, "$argon2id$v=19$m=8,t=1,p=1$x$y"])
def test_a_test_that_logs_a_secret_fails(secret: str) -> None:
    sections = [("Captured stdout call", "call"), ("Captured log call", f"password={secret}")]
    report = pytest.TestReport("id", ("", 0, ""), {}, "passed", None, "call", sections=sections)
    secrecy.fail_if_leaked(report)
    assert report.failed
    assert "Captured log call" in str(report.longrepr)


def test_a_test_that_logs_none_passes() -> None:
    sections = [("Captured stdout call", "method=CreateUser code=OK")]
    report = pytest.TestReport("id", ("", 0, ""), {}, "passed", None, "call", sections=sections)
    secrecy.fail_if_leaked(report)
    assert report.passed
