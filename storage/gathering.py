"""Transfers that come at once are made at once, where they meet in an account.

While a transaction with an account is under way, the next ones for it would wait for its lock. They
wait here instead, and one transaction makes the transfers of all of them. Those that meet nobody
wait for nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING

from storage import credits as transfers
from storage import requests
from storage.errors import Contention, DatabaseDown, PoolTimeout
from storage.lull import until_none_comes
from storage.requests import AlreadyAnswered, Claim, Key
from storage.transfers import TransferRow
from storage.usage import Usage, Wait, usage, waiting_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from storage.credits import Operation
    from storage.database import Database, Transaction

# Transfers that one transaction makes at most: others wait for their accounts meanwhile.
MOST = 100
# What these say of one transfer, they say of all.
_OF_ALL = (Contention, DatabaseDown, PoolTimeout)

# Turns a transfer that was made into what its caller is answered.
Answer = Callable[[TransferRow], bytes]


@dataclass(eq=False, slots=True)
class _Waiting:
    """A transfer that somebody waits for."""

    operation: Operation
    answer: Answer
    claim: Claim | None
    use: Usage
    outcome: asyncio.Future[TransferRow]


class Alone:
    """Makes each transfer in a transaction of its own.

    Args:
        database: where the credits are.
    """

    def __init__(self, database: Database) -> None:
        # By the number of transfers in a batch, how many batches there were.
        self.batches: Counter[int] = Counter()
        self._database = database

    async def make(self, operation: Operation, answer: Answer) -> TransferRow:  # noqa: ARG002 - as the other takes
        """Makes a transfer; raises what `storage.credits.make` does."""
        self.batches[1] += 1
        async with self._database.transaction(single=True) as tx:
            return await transfers.make(tx, operation)

    async def close(self) -> None:
        """Does nothing: nothing goes on after a call."""


class Together:
    """Makes transfers that meet in an account in one transaction, each with its own outcome.

    Args:
        database: where the credits are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._alone = Alone(database)
        self.batches = self._alone.batches
        # By account, who waits for the transaction that is under way with it.
        self._lanes: dict[int, deque[_Waiting]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def make(self, operation: Operation, answer: Answer) -> TransferRow:
        """Makes a transfer, along with others that come while one with an account is under way.

        A caller who is cancelled before the transfer is begun takes it back, and nobody else's.

        Args:
            operation: what to make.
            answer: makes what is kept for the call's request id, if it has one.

        Raises:
            AlreadyAnswered: when the call's request id has been answered.
            StorageError: what `storage.credits.make` raises.
        """
        lane = next((self._lanes[each] for each in operation.users if each in self._lanes), None)
        if lane is None:
            return await self._begin(operation, answer)
        outcome: asyncio.Future[TransferRow] = asyncio.get_running_loop().create_future()
        with waiting_for(Wait.LOCK) as use:
            claim = requests.claim_of_call.get()
            lane.append(_Waiting(operation, answer, claim, use, outcome))
            return await outcome

    async def close(self) -> None:
        """Waits for what is under way, whose callers may have left."""
        await asyncio.gather(*self._tasks)

    async def _begin(self, operation: Operation, answer: Answer) -> TransferRow:
        """Makes a transfer that meets nobody, and has those that come meanwhile made after it."""
        lane: deque[_Waiting] = deque()
        self._enter(lane, operation)
        try:
            return await self._alone.make(operation, answer)
        finally:
            if lane:
                # The deadline, request id and transaction of a caller are not those of all.
                task = asyncio.create_task(self._run(lane, [operation]), context=Context())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                self._leave(lane, [operation])

    async def _run(self, lane: deque[_Waiting], made: Sequence[Operation]) -> None:
        """Makes what waits in a lane, until nothing does.

        Args:
            lane: who waits.
            made: what the transaction before made, whose accounts the lane still has.
        """
        while lane:
            await until_none_comes(lane, MOST)
            self._leave(lane, made)
            batch = self._take(lane)
            await self._make(batch)
            made = [each.operation for each in batch]
        self._leave(lane, made)

    def _take(self, lane: deque[_Waiting]) -> list[_Waiting]:
        """Takes the next transfers from a lane, and has others for their accounts wait in it."""
        batch: list[_Waiting] = []
        while lane and len(batch) < MOST:
            waiting = lane.popleft()
            if not waiting.outcome.done():
                batch.append(waiting)
                self._enter(lane, waiting.operation)
        return batch

    def _enter(self, lane: deque[_Waiting], operation: Operation) -> None:
        """Has others for the transfer's accounts wait in a lane."""
        for user_id in operation.users:
            self._lanes.setdefault(user_id, lane)

    def _leave(self, lane: deque[_Waiting], made: Iterable[Operation]) -> None:
        """Lets others have the accounts of transfers that were made."""
        for operation in made:
            for user_id in operation.users:
                if self._lanes.get(user_id) is lane:
                    del self._lanes[user_id]

    async def _make(self, batch: Sequence[_Waiting]) -> None:
        """Makes transfers, and tells each caller the outcome."""
        if not batch:
            return
        self.batches[len(batch)] += 1
        use = Usage.shared_by(each.use for each in batch)
        usage.set(use)
        try:
            async with self._database.transaction() as tx:
                outcomes = await _make_all(tx, batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers are to hear of it
            if len(batch) > 1 and not isinstance(error, _OF_ALL):
                await self._make_each(batch)
                return
            outcomes = dict.fromkeys(batch, error)
        for waiting, outcome in outcomes.items():
            waiting.use.add_shared(use)
            if waiting.outcome.done():
                continue  # its caller has left
            if isinstance(outcome, Exception):
                waiting.outcome.set_exception(outcome)
            else:
                waiting.outcome.set_result(outcome)

    async def _make_each(self, batch: Iterable[_Waiting]) -> None:
        """Makes transfers each in its own transaction: what is wrong with one fails no other.

        Not at once: one that waits for a lock would keep the others from what it has locked.
        """
        for waiting in batch:
            if not waiting.outcome.done():
                await self._make([waiting])


async def _make_all(
    tx: Transaction, batch: Sequence[_Waiting]
) -> dict[_Waiting, TransferRow | Exception]:
    """Makes transfers, each once for its request id, whose answer is kept along with it."""
    outcomes: dict[_Waiting, TransferRow | Exception] = {}
    claimed = {each.claim.key: each for each in batch if each.claim}
    if claimed:
        claims = [each.claim for each in claimed.values() if each.claim]
        for key, found in (await requests.claim_all(tx, claims)).items():
            outcomes[claimed.pop(key)] = AlreadyAnswered(found)
    fresh = [each for each in batch if each not in outcomes]
    made = await transfers.make_all(tx, [each.operation for each in fresh]) if fresh else []
    outcomes.update(zip(fresh, made, strict=True))
    answers: dict[Key, bytes] = {}
    for key, waiting in claimed.items():
        outcome = outcomes[waiting]
        if isinstance(outcome, TransferRow):
            answers[key] = waiting.answer(outcome)
    if answers:
        await requests.keep_all(tx, answers)
    # What failed may be sent again.
    if failed := claimed.keys() - answers:
        await requests.yield_all(tx, failed)
    return outcomes
