"""The settings as flags of a command."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Literal, get_args, get_origin

from service.config import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

# The largest number of a database's.
MOST = 2**63 - 1
# What a setting's value is called where its type does not tell.
NAMES = {
    "data_dir": "DIR",
    "database_url": "URL",
    "request_key": "KEY",
    "jwt_keys": "FILE|URL",
    "jwt_issuer": "ISSUER",
    "jwt_audience": "AUDIENCE",
    "otlp_endpoint": "URL",
    "trace_ratio": "RATIO",
}


def add_settings(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Adds a flag for each of some settings.

    Args:
        parser: of the command. What it reads of a flag stays text: the settings check it.
        names: of the settings.
    """
    for name in names:
        field = Settings.model_fields[name]
        default = field.get_default(call_default_factory=True, validated_data={})
        shown = "none" if default is None else str(default)
        text = f"{field.description} [BYLINE_{name.upper()}; default: {shown}]"
        flag = "--" + name.replace("_", "-")
        if field.annotation is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
        else:
            parser.add_argument(flag, metavar=_metavar(name, field.annotation), help=text)


def natural(text: str) -> int:
    """Reads a number that is not negative, and that a database can hold.

    Raises:
        argparse.ArgumentTypeError: when it is another, or none.
    """
    if not text.isascii() or not text.isdigit() or int(text) > MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {MOST}")
    return int(text)


def _metavar(name: str, annotation: object) -> str:
    if get_origin(annotation) is Literal:
        return "{" + ",".join(get_args(annotation)) + "}"
    if name.endswith("listen"):
        return "HOST:PORT"
    if name in NAMES:
        return NAMES[name]
    return {int: "N", float: "SECONDS"}.get(annotation, "FILE")  # type: ignore[call-overload, no-any-return] # any annotation may be looked up
