"""Where a database is, as SQLAlchemy spells it: which URLs can be one, and how they are shown."""

from __future__ import annotations

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

# The options of asyncpg whose values may be text.
URL_OPTIONS = {
    *("host", "port", "user", "database", "passfile", "ssl", "krbsrvname", "gsslib"),
    *("target_session_attrs", "command_timeout", "statement_cache_size"),
    *("max_cached_statement_lifetime", "max_cacheable_statement_size"),
    "prepared_statement_cache_size",
}


def check_url(url: str) -> None:
    """Raises `ValueError`, with the reason for people, when no database can have this URL."""
    try:
        options = make_url(url).query
    except (ArgumentError, ValueError):
        raise ValueError("is not DRIVER://USER:PASSWORD@HOST:PORT/NAME?OPTION=VALUE") from None
    if unknown := sorted(options.keys() - URL_OPTIONS):
        hint = "; sslmode is spelt ssl here" if "sslmode" in unknown else ""
        raise ValueError(f"asyncpg takes no {', '.join(unknown)} from a URL{hint}")


def without_password(url: str) -> str:
    """Returns the URL as it may be shown."""
    return make_url(url).render_as_string(hide_password=True)
