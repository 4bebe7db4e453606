"""Logs: one JSON object a line, or colours on a terminal. They go to standard error.

Every call has a line, which for JSON goes past the logger: that took a fifth of what GetUser costs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, BinaryIO

import orjson
import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from structlog.typing import Processor

    from service.config import Settings

    Tell = Callable[[], Mapping[str, object]]

# At DEBUG it tells every statement with its values, password hashes among them.
TELLS_VALUES = "aiosqlite"


log = structlog.get_logger("byline.rpc")


class Lines:
    """Lines of calls as JSON, all that have come written at once.

    Args:
        stream: where they go.
        level: the least that a line is written for.
        told: what every line says besides.
    """

    def __init__(self, stream: BinaryIO, level: int, told: Mapping[str, object]) -> None:
        self._stream = stream
        self._levels = {
            name.lower()
            for name, number in logging.getLevelNamesMapping().items()
            if number >= level
        }
        self._told = told
        self._waiting: list[tuple[str, datetime, Tell]] = []

    def add(self, level: str, tell: Tell) -> None:
        """Adds a line, which is made and written when the event loop has come round.

        Lines that are made one after the other take less than one in each call does.

        Args:
            level: as for `of_call`.
            tell: as for `of_call`.
        """
        if level not in self._levels:
            return
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append((level, datetime.now(UTC), tell))

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._stream.write(b"".join([self._made(*each) for each in waiting]))
        self._stream.flush()

    def _made(self, level: str, at: datetime, tell: Tell) -> bytes:
        line = {**tell(), **self._told, "event": "call", "level": level, "timestamp": at}
        if "exc_info" in line:
            line = dict(structlog.processors.format_exc_info(log, level, line))
        try:
            return orjson.dumps(line, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)
        except TypeError:  # half a surrogate pair in the caller's name
            line["timestamp"] = f"{at:%Y-%m-%dT%H:%M:%S.%fZ}"
            return json.dumps(line).encode() + b"\n"


# None where lines are not JSON, and nobody has asked for logs.
_lines: Lines | None = None


def of_call(level: str, tell: Tell) -> None:
    """Writes the line of a call.

    Args:
        level: `info`, `warning` or `error`.
        tell: returns what it says, soon; an error with its traceback by `exc_info`.
    """
    if _lines is not None and structlog.is_configured():
        _lines.add(level, tell)
    else:
        getattr(log, level)("call", **tell())


def configure(settings: Settings, **told: object) -> None:
    """Sets up the logs of this process, those of libraries among them.

    Args:
        settings: how they are.
        told: what every line says besides.
    """
    global _lines  # noqa: PLW0603 - a process has one log
    structlog.contextvars.bind_contextvars(**told)
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    readable = settings.log_format == "console" or (
        settings.log_format == "auto" and sys.stderr.isatty()
    )
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # The renderer's own choice of traceback shows variables, and a password may be one.
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    last: list[Processor] = (
        [console]
        if readable
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    # Libraries speak up only when something is wrong, unless everything is asked for.
    logging.basicConfig(
        handlers=[handler], level=level if level < logging.INFO else max(level, logging.WARNING)
    )
    _lines = None if readable else Lines(sys.stderr.buffer, level, told)
    logging.getLogger(TELLS_VALUES).setLevel(logging.INFO)
