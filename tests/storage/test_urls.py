"""Where a database is. tests/service/test_config.py has the URLs that are refused."""

from __future__ import annotations

from storage.dialects.urls import without_password


def test_a_url_is_shown_without_its_password() -> None:
    shown = without_password(
        "postgresql+asyncpg://ada:s3cret@db.example.com:5433/byline?ssl=require"
    )
    assert shown == "postgresql+asyncpg://ada:***@db.example.com:5433/byline?ssl=require"
