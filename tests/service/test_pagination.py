"""Page tokens: they lead on where they were given out, and nowhere else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from byline.v1 import users_pb2 as pb

from service import pagination
from service.errors import InvalidRequest
from storage.casefold import fold
from storage.keyset import Cursor, Order
from storage.moments import FIRST, LAST

if TYPE_CHECKING:
    from storage.keyset import Window

ASKED = pb.ListUsersRequest(filter=pb.UserFilter(query="a"), order_by="username")
CURSOR = Cursor("ada", 7)
POSITIONS = [
    ("id", Cursor(7, 7)),
    ("id desc", Cursor(2**63 - 1, 2**63 - 1)),
    ("username", Cursor("ada", 7)),
    ("username desc", Cursor('"\\\N{OWL}\u2028', 7)),
    ("created_at", Cursor(1_770_091_506_789_012, 7)),
    ("created_at desc", Cursor(FIRST, 7)),
    ("created_at", Cursor(LAST, 7)),
]


@pytest.mark.parametrize(
    ("order_by", "order"),
    [
        ("", Order("id")),
        ("id", Order("id")),
        ("created_at", Order("created_at")),
        ("username desc", Order("username", descending=True)),
    ],
)
def test_a_list_is_in_the_order_asked(order_by: str, order: Order) -> None:
    assert pagination.window(pb.ListUsersRequest(order_by=order_by)).order == order


@pytest.mark.parametrize(
    ("page_size", "limit"), [(0, 50), (1, 1), (999, 999), (1000, 1000), (2**31 - 1, 1000)]
)
def test_a_page_is_as_long_as_asked_within_bounds(page_size: int, limit: int) -> None:
    window = pagination.window(pb.ListUsersRequest(page_size=page_size))
    assert (window.limit, window.after) == (limit, None)


@pytest.mark.parametrize(("order_by", "cursor"), POSITIONS)
def test_a_token_leads_back_to_its_position(order_by: str, cursor: Cursor) -> None:
    asked = pb.ListUsersRequest(order_by=order_by)
    assert follow(asked, pagination.token(cursor, asked)).after == cursor


def test_the_last_page_has_no_token() -> None:
    assert pagination.token(None, ASKED) == ""


def test_a_token_says_nothing_to_who_looks_at_it() -> None:
    token = pagination.token(CURSOR, ASKED)
    assert token.replace("-", "").replace("_", "").isalnum()


def test_the_longest_token_is_taken_back() -> None:
    # The letter that grows most when its case is folded.
    longest = fold("\u0390" * 50)
    token = pagination.token(Cursor(longest, 2**63 - 1), ASKED)
    assert len(token) <= 2048
    assert follow(ASKED, token).after == Cursor(longest, 2**63 - 1)


@pytest.mark.parametrize(
    "changed",
    [{"page_size": 1000}, {"view": pb.USER_VIEW_PROFILE}, {"page_size": 1, "view": 1}],
)
def test_the_size_and_the_view_may_change_on_the_way(changed: dict[str, int]) -> None:
    asked = pb.ListUsersRequest()
    asked.MergeFrom(ASKED)
    for name, value in changed.items():
        setattr(asked, name, value)
    assert follow(asked, pagination.token(CURSOR, ASKED)).after == CURSOR


@pytest.mark.parametrize(
    "other",
    [
        pb.ListUsersRequest(filter=ASKED.filter),
        pb.ListUsersRequest(filter=ASKED.filter, order_by="username desc"),
        pb.ListUsersRequest(order_by="username"),
        pb.ListUsersRequest(filter=pb.UserFilter(), order_by="username"),
        pb.ListUsersRequest(filter=pb.UserFilter(query="b"), order_by="username"),
        pb.ListUsersRequest(filter=pb.UserFilter(query="a", is_active=False), order_by="username"),
    ],
)
def test_a_token_leads_nowhere_in_another_list(other: pb.ListUsersRequest) -> None:
    refuses(other, pagination.token(CURSOR, ASKED))
    refuses(ASKED, pagination.token(CURSOR, other))


def test_a_token_that_was_altered_leads_nowhere() -> None:
    token = pagination.token(CURSOR, ASKED)
    for at, letter in enumerate(token):
        for other in {"A", "B", "_", "=", "", " ", letter + letter, letter + "!!!!"} - {letter}:
            refuses(ASKED, token[:at] + other + token[at + 1 :])


@pytest.mark.parametrize(
    ("order_by", "value", "row_id"),
    [
        ("username", 1, 1),
        ("username", "a\0b", 1),
        ("username", "ada", 2**63),
        ("username", "ada", "1"),
        ("id", "ada", 1),
        ("id", 2**63, 1),
        ("id", True, 1),
        ("created_at", "ada", 1),
        ("created_at", FIRST - 1, 1),
        ("created_at", LAST + 1, 1),
        ("created_at", True, 1),
    ],
)
def test_a_token_that_was_forged_leads_nowhere(order_by: str, value: Any, row_id: Any) -> None:  # noqa: ANN401 - what a forger writes
    asked = pb.ListUsersRequest(order_by=order_by)
    refuses(asked, pagination.token(Cursor(value, row_id), asked))


@pytest.mark.parametrize(
    "position",
    ['["\\ud800",1,false]', '["ada",1]', '["ada",1,false,1]', "[" * 2000, "7", "{}", "", "NaN"],
    ids=lambda position: position[:20],
)
def test_a_token_that_holds_no_position_leads_nowhere(
    monkeypatch: pytest.MonkeyPatch, position: str
) -> None:
    with monkeypatch.context() as forging:
        forging.setattr(json, "dumps", lambda *_, **__: position)
        token = pagination.token(CURSOR, ASKED)
    refuses(ASKED, token)


def follow(asked: pb.ListUsersRequest, token: str) -> Window:
    request = pb.ListUsersRequest(page_token=token)
    request.MergeFrom(asked)
    return pagination.window(request)


def refuses(asked: pb.ListUsersRequest, token: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        follow(asked, token)
    assert [violation.field for violation in refused.value.violations] == ["page_token"], token
