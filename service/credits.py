"""CreditService: what users have, and how it goes from one to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from byline.v1 import credits_pb2 as pb
from byline.v1.credits_pb2_grpc import CreditServiceServicer

from service import convert_credits as convert
from service import pagination
from storage import audit, credits, holds, transfers

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from storage.database import Database
    from storage.gathering import Alone, Together
    from storage.transfers import TransferRow

    Context = ServicerContext[Any, Any]


class Credits(CreditServiceServicer):
    """Serves `byline.v1.CreditService`; the contract is in credits.proto."""

    def __init__(self, database: Database, transfers: Alone | Together) -> None:
        self._db = database
        self._transfers = transfers

    async def GetBalance(self, request: pb.GetBalanceRequest, _: Context) -> pb.GetBalanceResponse:
        """Returns what a user has."""
        async with self._db.read() as read:
            row = await credits.get_balance(read, request.user_id)
        return convert.to_balance(row)

    async def Grant(self, request: pb.GrantRequest, _: Context) -> pb.GrantResponse:
        """Makes credits."""
        grant = convert.from_grant(request)
        async with self._db.transaction() as tx:
            row = await credits.make(tx, grant)
        return pb.GrantResponse(transfer=convert.to_transfer(row))

    async def Transfer(self, request: pb.TransferRequest, _: Context) -> pb.TransferResponse:
        """Gives credits of one user to another."""
        transfer = convert.from_transfer(request)
        row = await self._transfers.make(
            transfer, lambda row: _to_response(row).SerializeToString()
        )
        return _to_response(row)

    async def BatchTransfer(
        self, request: pb.BatchTransferRequest, _: Context
    ) -> pb.BatchTransferResponse:
        """Makes many transfers."""
        asked = [convert.from_transfer(each) for each in request.transfers]
        async with self._db.transaction() as tx:
            outcomes = await credits.make_all(tx, asked, atomic=request.atomic)
        return convert.to_results(outcomes)

    async def Hold(self, request: pb.HoldRequest, _: Context) -> pb.HoldResponse:
        """Sets credits of one user aside for another."""
        hold = convert.from_hold(request)
        async with self._db.transaction() as tx:
            row = await credits.make(tx, hold)
        return pb.HoldResponse(transfer=convert.to_transfer(row))

    async def CaptureHold(
        self, request: pb.CaptureHoldRequest, _: Context
    ) -> pb.CaptureHoldResponse:
        """Gives what is held to the receiver."""
        amount = request.amount if request.HasField("amount") else None
        async with self._db.transaction() as tx:
            row = await holds.capture(tx, request.transfer_id, amount)
        return pb.CaptureHoldResponse(transfer=convert.to_transfer(row))

    async def ReleaseHold(
        self, request: pb.ReleaseHoldRequest, _: Context
    ) -> pb.ReleaseHoldResponse:
        """Gives what is held back to the sender."""
        async with self._db.transaction() as tx:
            row = await holds.release(tx, request.transfer_id)
        return pb.ReleaseHoldResponse(transfer=convert.to_transfer(row))

    async def GetTransfer(
        self, request: pb.GetTransferRequest, _: Context
    ) -> pb.GetTransferResponse:
        """Returns one transfer."""
        async with self._db.read() as read:
            row = await transfers.get(read, request.id)
        return pb.GetTransferResponse(transfer=convert.to_transfer(row))

    async def ListTransfers(
        self, request: pb.ListTransfersRequest, _: Context
    ) -> pb.ListTransfersResponse:
        """Returns a page of a user's transfers."""
        where = convert.from_list_request(request)
        window = pagination.window(request)
        async with self._db.read() as read:
            page = await transfers.list_page(read, where, window)
        return pb.ListTransfersResponse(
            transfers=map(convert.to_transfer, page.rows),
            next_page_token=pagination.token(page.next, request),
        )

    async def AuditCredits(self, _: pb.AuditCreditsRequest, __: Context) -> pb.AuditCreditsResponse:
        """Audits all credits."""
        async with self._db.read(snapshot=True) as read:
            found = await audit.audit(read)
        return convert.to_audit(found)


def _to_response(row: TransferRow) -> pb.TransferResponse:
    return pb.TransferResponse(transfer=convert.to_transfer(row))
