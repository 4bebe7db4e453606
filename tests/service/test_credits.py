"""CreditService, as its callers see it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest
from byline.v1 import credits_pb2 as pb
from byline.v1 import resources_pb2, users_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from tests import factories
from tests.clients import missing, read_status, refusal_of
from tests.onlookers import looking_on

if TYPE_CHECKING:
    from tests.clients import Client, Refusal

Code = grpc.StatusCode
MOST = 2**63 - 1
NOBODY = 10**12


@pytest.fixture
def database_url(emptied_url: str) -> str:
    """The database of this file's tests, emptied for each."""
    return emptied_url


@pytest.fixture
def client(database_url: str, shared_client: Client) -> Client:
    """A client of this file's server, on a database with nothing in it."""
    del database_url
    return shared_client


async def balance(client: Client, user_id: int) -> tuple[int, int]:
    answer = await client.credits.GetBalance(pb.GetBalanceRequest(user_id=user_id))
    assert answer.HasField("updated_at")
    return answer.available, answer.held


async def hold(client: Client, sender: int, receiver: int, amount: int) -> pb.Transfer:
    request = pb.HoldRequest(from_user_id=sender, to_user_id=receiver, amount=amount)
    return (await client.credits.Hold(request)).transfer


async def get(client: Client, transfer_id: int) -> pb.Transfer:
    return (await client.credits.GetTransfer(pb.GetTransferRequest(id=transfer_id))).transfer


async def deactivate(client: Client, user_id: int) -> None:
    user = resources_pb2.User(id=user_id)
    mask = FieldMask(paths=["is_active"])
    await client.users.UpdateUser(users_pb2.UpdateUserRequest(user=user, update_mask=mask))


def why(refusal: Refusal) -> tuple[Code, str, dict[str, str]]:
    return refusal.code, refusal.reason, refusal.metadata


async def test_a_grant_is_shown_and_has(client: Client) -> None:
    (ada,) = await factories.create_users_with(client, 0)
    request = pb.GrantRequest(user_id=ada, amount=7, memo="Welcome.")
    made = (await client.credits.Grant(request)).transfer
    assert made == pb.Transfer(
        id=made.id,
        kind=pb.TRANSFER_KIND_GRANT,
        to_user_id=ada,
        amount=7,
        memo="Welcome.",
        state=pb.TRANSFER_STATE_SETTLED,
        created_at=made.created_at,
    )
    assert made == await get(client, made.id)
    assert await balance(client, ada) == (7, 0)


async def test_a_transfer_goes_from_one_to_another(client: Client) -> None:
    ada, bob = await factories.create_users_with(client, 10, 0)
    request = pb.TransferRequest(from_user_id=ada, to_user_id=bob, amount=4, memo="Rent.")
    made = (await client.credits.Transfer(request)).transfer
    assert (made.kind, made.from_user_id, made.to_user_id) == (pb.TRANSFER_KIND_TRANSFER, ada, bob)
    assert not made.HasField("expires_at")
    assert not made.HasField("resolved_at")
    assert made == await get(client, made.id)
    assert [await balance(client, each) for each in (ada, bob)] == [(6, 0), (4, 0)]


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [(None, 7 * 86_400), (Duration(seconds=60), 60), (Duration(nanos=1_500), 0.000002)],
)
async def test_a_hold_lasts_as_long_as_asked_and_a_week_if_nothing_is(
    client: Client, expires_in: Duration | None, seconds: float
) -> None:
    ada, bob = await factories.create_users_with(client, 10, 0)
    request = pb.HoldRequest(from_user_id=ada, to_user_id=bob, amount=4, expires_in=expires_in)
    made = (await client.credits.Hold(request)).transfer
    assert made.state == pb.TRANSFER_STATE_PENDING
    lifetime = made.expires_at.ToDatetime() - made.created_at.ToDatetime()
    assert lifetime.total_seconds() == seconds


async def test_a_hold_is_captured_in_part_and_the_rest_comes_back(client: Client) -> None:
    ada, bob = await factories.create_users_with(client, 10, 0)
    made = await hold(client, ada, bob, 4)
    assert await balance(client, ada) == (6, 4)
    request = pb.CaptureHoldRequest(transfer_id=made.id, amount=3)
    captured = (await client.credits.CaptureHold(request)).transfer
    assert captured.state == pb.TRANSFER_STATE_CAPTURED
    assert (captured.amount, captured.captured_amount) == (4, 3)
    assert captured.HasField("resolved_at")
    assert captured == await get(client, made.id)
    assert [await balance(client, each) for each in (ada, bob)] == [(7, 0), (3, 0)]


async def test_a_hold_is_captured_whole_if_no_amount_is_named(client: Client) -> None:
    ada, bob = await factories.create_users_with(client, 10, 0)
    made = await hold(client, ada, bob, 4)
    await client.credits.CaptureHold(pb.CaptureHoldRequest(transfer_id=made.id))
    assert [await balance(client, each) for each in (ada, bob)] == [(6, 0), (4, 0)]


async def test_a_hold_is_released(client: Client) -> None:
    ada, bob = await factories.create_users_with(client, 10, 0)
    made = await hold(client, ada, bob, 4)
    request = pb.ReleaseHoldRequest(transfer_id=made.id)
    released = (await client.credits.ReleaseHold(request)).transfer
    assert released.state == pb.TRANSFER_STATE_RELEASED
    assert released == await get(client, made.id)
    refusal = await refusal_of(client.credits.ReleaseHold(request))
    told = {"transfer_id": str(made.id), "state": "released"}
    assert why(refusal) == (Code.FAILED_PRECONDITION, "HOLD_RESOLVED", told)
    assert await balance(client, ada) == (10, 0)


async def test_too_little_is_told_with_what_was_available(client: Client) -> None:
    ada, bob = await factories.create_users_with(client, 10, 0)
    request = pb.TransferRequest(from_user_id=ada, to_user_id=bob, amount=11)
    refusal = await refusal_of(client.credits.Transfer(request))
    told = {"user_id": str(ada), "available": "10", "required": "11"}
    assert why(refusal) == (Code.FAILED_PRECONDITION, "INSUFFICIENT_CREDITS", told)
    assert "PreconditionFailure" in refusal.details


async def test_who_is_not_there_is_named(client: Client) -> None:
    (ada,) = await factories.create_users_with(client, 10)
    for sender, receiver in ((ada, NOBODY), (NOBODY, ada)):
        request = pb.TransferRequest(from_user_id=sender, to_user_id=receiver, amount=1)
        refusal = await refusal_of(client.credits.Transfer(request))
        assert refusal.what == missing("user", NOBODY)
    for call in (
        client.credits.GetBalance(pb.GetBalanceRequest(user_id=NOBODY)),
        client.credits.Grant(pb.GrantRequest(user_id=NOBODY, amount=1)),
    ):
        assert (await refusal_of(call)).what == missing("user", NOBODY)
    for look in (
        client.credits.GetTransfer(pb.GetTransferRequest(id=NOBODY)),
        client.credits.CaptureHold(pb.CaptureHoldRequest(transfer_id=NOBODY)),
        client.credits.ReleaseHold(pb.ReleaseHoldRequest(transfer_id=NOBODY)),
    ):
        assert (await refusal_of(look)).what == missing("transfer", NOBODY)


async def test_the_inactive_and_the_overfull_are_named(client: Client) -> None:
    ada, bob = await factories.create_users_with(client, MOST, 5)
    request = pb.TransferRequest(from_user_id=bob, to_user_id=ada, amount=1)
    refusal = await refusal_of(client.credits.Transfer(request))
    assert why(refusal) == (Code.OUT_OF_RANGE, "OVERFLOW", {"whose": f"user {ada}"})
    await deactivate(client, ada)
    refusal = await refusal_of(client.credits.Transfer(request))
    assert why(refusal) == (Code.FAILED_PRECONDITION, "INACTIVE_USER", {"user_id": str(ada)})


async def test_more_than_is_held_is_refused(client: Client) -> None:
    ada, bob = await factories.create_users_with(client, 10, 0)
    made = await hold(client, ada, bob, 4)
    request = pb.CaptureHoldRequest(transfer_id=made.id, amount=5)
    refusal = await refusal_of(client.credits.CaptureHold(request))
    told = {"transfer_id": str(made.id), "held": "4", "required": "5"}
    assert why(refusal) == (Code.FAILED_PRECONDITION, "AMOUNT_TOO_LARGE", told)


async def batch(
    client: Client, *parts: tuple[int, int, int], atomic: bool = False
) -> list[int | Refusal]:
    """Sends a batch of (sender, receiver, amount), and returns amounts and refusals."""
    transfers = [
        pb.NewTransfer(from_user_id=sender, to_user_id=receiver, amount=amount)
        for sender, receiver, amount in parts
    ]
    request = pb.BatchTransferRequest(transfers=transfers, atomic=atomic)
    results = (await client.credits.BatchTransfer(request)).results
    return [
        each.transfer.amount if each.HasField("transfer") else read_status(each.error)
        for each in results
    ]


async def test_what_fails_in_a_batch_is_told_as_it_is_alone(client: Client) -> None:
    ada, bob = await factories.create_users_with(client, 10, 0)
    first, refused, last = await batch(client, (ada, bob, 3), (ada, bob, 8), (bob, ada, 3))
    assert (first, last) == (3, 3)
    await batch(client, (ada, bob, 3))
    alone = await refusal_of(
        client.credits.Transfer(pb.TransferRequest(from_user_id=ada, to_user_id=bob, amount=8))
    )
    assert refused == alone
    (unknown,) = await batch(client, (ada, NOBODY, 1))
    assert not isinstance(unknown, int)
    assert unknown.what == missing("user", NOBODY)
    assert [await balance(client, each) for each in (ada, bob)] == [(7, 0), (3, 0)]


async def test_of_an_atomic_batch_the_first_that_failed_is_named(client: Client) -> None:
    ada, bob = await factories.create_users_with(client, 10, 0)
    parts = [(ada, bob, 3), (bob, ada, 4), (ada, bob, 3)]
    told = await batch(client, *parts, atomic=True)
    linked = (Code.ABORTED, "LINKED_FAILED", {"index": "1"})
    short = {"user_id": str(bob), "available": "3", "required": "4"}
    assert [why(each) for each in told if not isinstance(each, int)] == [
        linked,
        (Code.FAILED_PRECONDITION, "INSUFFICIENT_CREDITS", short),
        linked,
    ]
    assert await balance(client, ada) == (10, 0)


async def test_a_rule_broken_anywhere_in_a_batch_refuses_all_of_it(client: Client) -> None:
    ada, bob = await factories.create_users_with(client, 10, 0)
    refusal = await refusal_of(batch(client, (ada, bob, 3), (ada, ada, 3), (ada, bob, 0)))
    assert refusal.fields == ("transfers[1].to_user_id", "transfers[2].amount")
    assert await balance(client, ada) == (10, 0)


async def test_transfers_are_listed_page_by_page(client: Client) -> None:
    ada, bob = await factories.create_users_with(client, 100, 100)
    for number in range(1, 6):
        await batch(client, (ada, bob, number), (bob, ada, number))
    amounts, token = [], ""
    while True:
        request = pb.ListTransfersRequest(
            user_id=ada,
            direction=pb.TRANSFER_DIRECTION_OUTGOING,
            state=pb.TRANSFER_STATE_SETTLED,
            order_by="id desc",
            page_size=2,
            page_token=token,
        )
        page = await client.credits.ListTransfers(request)
        amounts += [each.amount for each in page.transfers]
        token = page.next_page_token
        if not token:
            break
    assert amounts == [5, 4, 3, 2, 1]


async def test_one_who_has_credits_cannot_be_deleted(client: Client) -> None:
    ada, bob = await factories.create_users_with(client, 5, 0)
    deletion = users_pb2.DeleteUserRequest(id=ada)
    refusal = await refusal_of(client.users.DeleteUser(deletion))
    assert why(refusal) == (Code.FAILED_PRECONDITION, "HAS_CREDITS", {})
    assert "PreconditionFailure" in refusal.details
    await deactivate(client, ada)
    purge = users_pb2.PurgeInactiveUsersRequest()
    refusal = await refusal_of(client.users.PurgeInactiveUsers(purge))
    assert refusal.reason == "HAS_CREDITS"
    await client.users.DeleteUser(users_pb2.DeleteUserRequest(id=bob))


async def test_an_audit_tells_what_there_is_and_what_does_not_agree(
    client: Client, database_url: str
) -> None:
    ada, bob = await factories.create_users_with(client, 5, 2)
    await hold(client, ada, bob, 1)
    answer = await client.credits.AuditCredits(pb.AuditCreditsRequest())
    assert answer == pb.AuditCreditsResponse(
        accounts=2, transfers=3, total_granted=7, total_balance=7
    )
    async with looking_on(database_url) as onlooker:
        await onlooker.execute(
            "UPDATE credit_accounts SET available = 9 WHERE user_id = :ada", ada=ada
        )
    answer = await client.credits.AuditCredits(pb.AuditCreditsRequest())
    assert [(each.kind, each.user_id) for each in answer.discrepancies] == [
        (pb.DISCREPANCY_KIND_BALANCE, ada),
        (pb.DISCREPANCY_KIND_TOTAL, 0),
    ]
    assert all(each.text for each in answer.discrepancies)


async def test_64_callers_on_two_accounts_lose_nothing(client: Client) -> None:
    ids = ada, bob = await factories.create_users_with(client, 100, 100)

    async def call(number: int) -> set[str]:
        reasons = set()
        for _ in range(8):
            sender, receiver = ids if number % 2 else (bob, ada)
            request = pb.TransferRequest(from_user_id=sender, to_user_id=receiver, amount=20)
            try:
                await client.credits.Transfer(request)
            except grpc.aio.AioRpcError as error:
                reasons.add(error.code().name)
        return reasons

    reasons = set().union(*await asyncio.gather(*map(call, range(64))))
    assert reasons <= {"FAILED_PRECONDITION"}
    audit = await client.credits.AuditCredits(pb.AuditCreditsRequest())
    assert (audit.total_balance, list(audit.discrepancies)) == (200, [])
