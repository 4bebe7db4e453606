"""Who gives credits to whom, as requests that are ready to be sent."""

from __future__ import annotations

import random
from dataclasses import dataclass

from byline.v1 import credits_pb2 as pb

# Transfers that are made ready; then they come again.
READY = 50_000
SHOP = 1


@dataclass(frozen=True, slots=True)
class Traffic:
    """Transfers among accounts, drawn by chance.

    Args:
        accounts: how many there are, from the first on.
        shop: all go to the first account, from any of the others.
        batch: transfers in a request; 1 stands for requests of a transfer each.
        named: every request has a request id; for requests of a transfer each.
    """

    accounts: int
    shop: bool = False
    batch: int = 1
    named: bool = False

    @property
    def method(self) -> str:
        """The RPC that takes the requests."""
        name = "Transfer" if self.batch == 1 else "BatchTransfer"
        return f"/byline.v1.CreditService/{name}"

    def ready(self) -> list[bytes]:
        """Returns serialized requests, each unlike the one before."""
        draw = random.Random()  # noqa: S311 - load, not secrets
        return [self.request(draw) for _ in range(READY // self.batch)]

    def request(self, draw: random.Random) -> bytes:
        """Returns one serialized request."""
        if self.batch == 1:
            sender, receiver = self._pair(draw)
            alone = pb.TransferRequest(from_user_id=sender, to_user_id=receiver, amount=1)
            return alone.SerializeToString()
        pairs = [self._pair(draw) for _ in range(self.batch)]
        many = (pb.NewTransfer(from_user_id=one, to_user_id=two, amount=1) for one, two in pairs)
        return pb.BatchTransferRequest(transfers=many).SerializeToString()

    def _pair(self, draw: random.Random) -> tuple[int, int]:
        if self.shop:
            return draw.randint(SHOP + 1, self.accounts), SHOP
        sender, receiver = draw.sample(range(1, self.accounts + 1), 2)
        return sender, receiver
