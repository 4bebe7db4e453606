"""Page tokens: where a list goes on, opaque to callers, bound to what was asked.

A token is base64url over a version byte, a digest and a position. The digest covers the position
and what was asked, so one that was altered, or that belongs to another list, filter or order, is
refused. It is no secret: whoever forges one sees no more than the list would show.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeGuard

from service.errors import InvalidRequest, Violation
from storage.keyset import Cursor, Order, Window
from storage.moments import FIRST, LAST

if TYPE_CHECKING:
    from byline.v1 import credits_pb2, posts_pb2, tags_pb2, users_pb2

    ListRequest = (
        users_pb2.ListUsersRequest
        | users_pb2.ListAuthorsRequest
        | users_pb2.ListUserPostCountsRequest
        | posts_pb2.ListPostsRequest
        | tags_pb2.ListTagsRequest
        | credits_pb2.ListTransfersRequest
    )

DEFAULT_SIZE = 50
MAX_SIZE = 1000
# What may change from one page to the next.
_FREE = ("page_size", "page_token", "view")
# What the fields that a list can be ordered by hold; the others hold text.
_MOMENTS = ("created_at",)
_NUMBERS = ("id", "post_count")
_VERSION = b"\x01"
_DIGEST_SIZE = 12


def window(request: ListRequest, default: str = "id") -> Window:
    """Returns which page is asked for.

    A size of 0 means the default, and one above the maximum means the maximum (AIP-158).

    Args:
        request: the request.
        default: the field to order by when the request names none.

    Raises:
        InvalidRequest: when the page token is altered or belongs to another list.
    """
    field, direction = _order(request)
    order = Order(field or default, descending=direction == "desc")
    after = _decode(request, order.field)
    return Window(order, after, min(request.page_size or DEFAULT_SIZE, MAX_SIZE))


def token(cursor: Cursor | None, request: ListRequest) -> str:
    """Returns the token of a position in the asked list; empty when there is no more to come."""
    if cursor is None:
        return ""
    value, row_id = cursor
    field, _ = _order(request)
    # With its characters escaped, a long title would not fit into a token that may be sent.
    position = json.dumps(
        [value, row_id, field in _MOMENTS], ensure_ascii=False, separators=(",", ":")
    ).encode()
    raw = _VERSION + _digest(position, request) + position
    return _encode(raw)


def _order(request: ListRequest) -> tuple[str, str]:
    """Returns the field that a request orders by, and the direction; "" where it names none."""
    field, _, direction = getattr(request, "order_by", "").partition(" ")
    return field, direction


def _encode(raw: bytes) -> str:
    return urlsafe_b64encode(raw).decode().rstrip("=")


def _decode(request: ListRequest, field: str) -> Cursor | None:
    if not request.page_token:
        return None
    try:
        text = request.page_token.encode("ascii")
        raw = urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except ValueError:
        raise _foreign() from None
    # The decoder takes more than the encoder makes: it skips what is no base64.
    if _encode(raw) != request.page_token:
        raise _foreign()
    digest, position = raw[1 : 1 + _DIGEST_SIZE], raw[1 + _DIGEST_SIZE :]
    if raw[:1] != _VERSION or digest != _digest(position, request):
        raise _foreign()
    try:
        return _cursor(field, *json.loads(position))
    # Forged: no list gives out such a position.
    except (ValueError, TypeError, RecursionError):
        raise _foreign() from None


def _cursor(field: str, value: object, row_id: object, is_moment: object) -> Cursor:
    """Returns the position that a token holds.

    Raises:
        ValueError: when it is none in a list ordered by this field.
    """
    if not _is_id(row_id):
        raise ValueError("is not an id")
    if is_moment and type(value) is int and FIRST <= value <= LAST and field in _MOMENTS:
        return Cursor(value, row_id)
    if _is_id(value) and field in _NUMBERS:
        return Cursor(value, row_id)
    if _is_text(value) and field not in (*_MOMENTS, *_NUMBERS):
        return Cursor(value, row_id)
    raise ValueError("is not a value of this field")


def _is_text(value: object) -> TypeGuard[str]:
    """Whether the database can hold it: JSON has halves of surrogate pairs too."""
    return isinstance(value, str) and not re.search("[\0\ud800-\udfff]", value)


def _is_id(value: object) -> TypeGuard[int]:
    return type(value) is int and -(2**63) <= value < 2**63


def _digest(position: bytes, request: ListRequest) -> bytes:
    asked = type(request)()
    asked.CopyFrom(request)  # type: ignore[arg-type] # of its own type
    for name in _FREE:
        if name in asked.DESCRIPTOR.fields_by_name:
            asked.ClearField(name)  # type: ignore[arg-type] # looked up
    scope = f"{request.DESCRIPTOR.full_name} {len(position)} ".encode()
    return blake2b(
        scope + position + asked.SerializeToString(deterministic=True),
        digest_size=_DIGEST_SIZE,
    ).digest()


def _foreign() -> InvalidRequest:
    return InvalidRequest(
        Violation("page_token", "is not one that this list, with this filter and order, gave out")
    )
