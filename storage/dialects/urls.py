"""Where a database is, as SQLAlchemy spells it: which URLs can be one, and how they are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping


class _Form(NamedTuple):
    """What the URLs of a kind of database look like.

    Args:
        driver: how they begin.
        shape: for people.
        options: what may follow the name: the driver's options whose values may be text.
        hints: what an option is called here that is known by another name elsewhere.
    """

    driver: str
    shape: str
    options: frozenset[str] = frozenset()
    hints: Mapping[str, str] = {}


_FORMS = (
    _Form(
        "postgresql+asyncpg",
        "postgresql+asyncpg://USER:PASSWORD@HOST:PORT/NAME?OPTION=VALUE",
        frozenset(
            {
                *("host", "port", "user", "database", "passfile", "ssl", "krbsrvname", "gsslib"),
                *("target_session_attrs", "command_timeout", "statement_cache_size"),
                *("max_cached_statement_lifetime", "max_cacheable_statement_size"),
                "prepared_statement_cache_size",
            }
        ),
        {"sslmode": "ssl"},
    ),
    _Form(
        "mysql+asyncmy",
        "mysql+asyncmy://USER:PASSWORD@HOST:PORT/NAME?OPTION=VALUE",
        frozenset({"unix_socket", "ssl_ca", "ssl_cert", "ssl_key", "ssl_check_hostname"}),
        {"ssl": "ssl_ca", "sslmode": "ssl_ca", "socket": "unix_socket"},
    ),
    _Form("sqlite+aiosqlite", "sqlite+aiosqlite:///FILE"),
)
DRIVERS = tuple(form.driver for form in _FORMS)
# What SQLite takes for a database of the connection's own, gone when it closes.
_IN_MEMORY = {None, "", ":memory:"}


def check_url(url: str) -> None:
    """Raises `ValueError`, with the reason for people, when no database can have this URL."""
    form = next((form for form in _FORMS if url.startswith(f"{form.driver}://")), None)
    if form is None:
        raise ValueError(f"must start with {'://, '.join(DRIVERS[:-1])}:// or {DRIVERS[-1]}://")
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError(f"is not {form.shape}") from None
    if unknown := sorted(parsed.query.keys() - form.options):
        spelt = [
            f"; {name} is spelt {form.hints[name]} here" for name in unknown if name in form.hints
        ]
        raise ValueError(f"{form.driver} takes no {', '.join(unknown)} from a URL{''.join(spelt)}")
    if is_file(url) and (parsed.host or parsed.database in _IN_MEMORY):
        raise ValueError(
            f"is not {form.shape}: three slashes, and a fourth for a path from the root"
        )


def is_file(url: str) -> bool:
    """Tells whether the database is a file of the machine's, which whoever is first makes."""
    return make_url(url).get_backend_name() == "sqlite"


def file_of(url: str) -> str:
    """Returns the path of the file that a database is."""
    return str(make_url(url).database)


def without_password(url: str) -> str:
    """Returns the URL as it may be shown."""
    return make_url(url).render_as_string(hide_password=True)
