"""What gRPC itself is told of connections: how they are kept, spread and bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.config import Settings


def options(settings: Settings) -> list[tuple[str, int]]:
    """Returns the server's options, by gRPC's names for them."""
    told = {
        "so_reuseport": settings.workers > 1,
        "max_receive_message_length": settings.max_request_bytes,
        # Answers are bounded where a caller can be told what to do about it.
        "max_send_message_length": -1,
        "max_concurrent_streams": settings.max_streams,
        # Who is gone without a word is found out, and who pings without end is cut off.
        "keepalive_time_ms": _milliseconds(settings.keepalive_interval),
        "keepalive_timeout_ms": _milliseconds(settings.keepalive_timeout),
        "keepalive_permit_without_calls": True,
        "http2.min_ping_interval_without_data_ms": _milliseconds(settings.min_ping_interval),
        # gRPC takes or adds a tenth, so that not all callers come back at once.
        "max_connection_age_ms": _milliseconds(settings.max_connection_age),
        "max_connection_age_grace_ms": _milliseconds(settings.max_connection_age_grace),
    }
    return [(f"grpc.{name}", int(value)) for name, value in told.items()]


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
