"""What a policy says: who has which access."""

from __future__ import annotations

import re
from typing import Any

import pytest
from byline.v1 import access_pb2
from grpc_health.v1 import health_pb2

from service.policy import Access, Policy, access_needed
from tests.clients import rpcs

READ, WRITE, ADMIN = Access.ACCESS_READ, Access.ACCESS_WRITE, Access.ACCESS_ADMIN
GET, GRANT = "byline.v1.UserService/GetUser", "byline.v1.CreditService/Grant"


def policy(text: str) -> Policy:
    return Policy(text.encode())


@pytest.mark.parametrize(
    ("access", "allowed"),
    [("read", {READ}), ("write", {READ, WRITE}), ("admin", {READ, WRITE, ADMIN})],
)
def test_an_access_has_those_before_it_in_it(access: str, allowed: set[int]) -> None:
    says = policy(f'[[callers]]\nidentity = "web"\naccess = "{access}"')
    assert {each for each in (READ, WRITE, ADMIN) if says.allows("web", GET, each)} == allowed


def test_who_is_not_named_has_none() -> None:
    assert not policy("").allows("web", GET, READ)
    assert not policy('[[callers]]\nidentity = "web"\naccess = "admin"').allows("Web", GET, READ)


def test_single_rpcs_come_on_top() -> None:
    says = policy(f'[[callers]]\nidentity = "nightly"\naccess = "read"\nrpcs = ["{GRANT}"]')
    assert says.allows("nightly", GRANT, ADMIN)
    assert says.allows("nightly", GET, READ)
    assert not says.allows("nightly", "byline.v1.CreditService/AuditCredits", ADMIN)


def test_all_entries_that_fit_a_caller_add_up() -> None:
    says = policy(
        f'[[callers]]\nidentity = "**"\naccess = "read"\n'
        f'[[callers]]\nidentity = "web-*"\naccess = "write"\n'
        f'[[callers]]\nidentity = "web-1"\nrpcs = ["{GRANT}"]'
    )
    assert says.allows("web-1", GET, WRITE)
    assert says.allows("web-1", GRANT, ADMIN)
    assert not says.allows("web-2", GRANT, ADMIN)
    assert not says.allows("other", GET, WRITE)


@pytest.mark.parametrize(
    ("glob", "identity", "fits"),
    [
        ("web", "web", True),
        ("web", "web2", False),
        ("web", "a web", False),
        ("web-*", "web-", True),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "a.example-com", False),
        ("spiffe://example.com/ns/*/sa/web", "spiffe://example.com/ns/shop/sa/web", True),
        ("spiffe://example.com/ns/*/sa/web", "spiffe://example.com/ns/a/sa/b/sa/web", False),
        ("spiffe://example.com/**", "spiffe://example.com/ns/shop/sa/web", True),
        ("[a]?", "a", False),
    ],
)
def test_a_star_stands_for_any_text_without_a_slash_and_two_for_any(
    glob: str, identity: str, *, fits: bool
) -> None:
    says = policy(f'[[callers]]\nidentity = "{glob}"\naccess = "read"')
    assert says.allows(identity, GET, READ) is fits


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[callers]", "Expected ']]'"),
        ('[[callers]]\naccess = "read"', "callers.0.identity: Field required"),
        ('[[callers]]\nidentity = ""', "callers.0.identity: String should have at least 1"),
        (
            '[[callers]]\nidentity = "a"\naccess = "root"',
            "callers.0.access: Input should be 'read'",
        ),
        ('[[callers]]\nidentity = "a"\nacess = "read"', "callers.0.acess: Extra inputs"),
        ('[[caller]]\nidentity = "a"', "caller: Extra inputs"),
        ('[[callers]]\nidentity = "a"\nrpcs = ["Grant"]', "'Grant' is no RPC"),
        (
            '[[callers]]\nidentity = "a"\nrpcs = ["byline.v1.CreditService.Grant"]',
            "'byline.v1.CreditService.Grant' is no RPC",
        ),
        (
            '[[callers]]\nidentity = "a"\nrpcs = ["byline.v1.CreditService/Forge"]',
            "'byline.v1.CreditService/Forge' is no RPC",
        ),
    ],
)
def test_what_a_policy_cannot_say_is_refused_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)) as refused:
        policy(text)
    assert "\n" not in str(refused.value)


def test_every_rpc_says_which_access_it_needs() -> None:
    assert {access_needed(rpc) for rpc in rpcs()} == {READ, WRITE, ADMIN}
    silent: Any = health_pb2.DESCRIPTOR.services_by_name["Health"].methods[0]
    assert silent.GetOptions().Extensions[access_pb2.access] == Access.ACCESS_UNSPECIFIED
    with pytest.raises(LookupError, match="Health"):
        access_needed(silent)
