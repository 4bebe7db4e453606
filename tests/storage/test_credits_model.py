"""Any sequence of operations on credits does what a model in memory does, and audits clean."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from service.loop import factory
from storage import credits, holds, transfers, users
from storage.database import Database
from storage.errors import (
    AmountTooLarge,
    HasCredits,
    HoldResolved,
    InactiveUser,
    InsufficientCredits,
    LinkedFailed,
    NotFound,
)
from storage.models import EntryKind
from storage.transfers import State, TransferRow
from tests import factories
from tests.factories import grant, hold, transfer
from tests.ledgers import balances, outcome_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from storage.credits import Operation

    Refusal = type[Exception] | None

USERS = 4
user = st.integers(0, USERS - 1)
pair = st.lists(user, min_size=2, max_size=2, unique=True)
# Some too much, most not.
amount = st.integers(1, 60)
place = st.integers(0, 30)
moment = timedelta(microseconds=1)


@dataclass
class Account:
    """What the model knows of a user."""

    user_id: int
    available: int = 0
    active: bool = True
    there: bool = True


@dataclass
class Held:
    """What the model knows of a hold."""

    transfer_id: int
    sender: Account
    receiver: Account
    amount: int
    state: State = State.PENDING


class Model:
    """Credits in memory: as simple as can be, one operation after the other."""

    def __init__(self, ids: list[int]) -> None:
        self.accounts = [Account(user_id) for user_id in ids]
        self.holds: list[Held] = []

    def of(self, user_id: int) -> Account:
        return next(each for each in self.accounts if each.user_id == user_id)

    def held(self, account: Account, *, incoming: bool = False) -> int:
        return sum(
            each.amount
            for each in self.holds
            if each.state is State.PENDING
            and (each.receiver if incoming else each.sender) is account
        )

    def apply(self, operation: Operation) -> Refusal:
        named = [self.of(user_id) for user_id in operation.users]
        if not all(each.there for each in named):
            return NotFound
        if not all(each.active for each in named):
            return InactiveUser
        if operation.kind is not EntryKind.GRANT:
            if named[0].available < operation.amount:
                return InsufficientCredits
            named[0].available -= operation.amount
        if operation.kind is not EntryKind.HOLD:
            named[-1].available += operation.amount
        return None

    def remember(self, row: TransferRow, *, expired: bool = False) -> None:
        sender, receiver = self.of(row.users[0]), self.of(row.to_user_id)
        self.holds.append(Held(row.id, sender, receiver, row.amount))
        if expired:
            self.end(self.holds[-1], State.EXPIRED)

    def end(self, ended: Held, state: State, captured: int = 0) -> None:
        ended.state = state
        ended.sender.available += ended.amount - captured
        ended.receiver.available += captured

    def snapshot(self) -> list[int]:
        return [each.available for each in self.accounts]

    def restore(self, snapshot: list[int]) -> None:
        for account, available in zip(self.accounts, snapshot, strict=True):
            account.available = available


class Credits(RuleBasedStateMachine):
    """The operations, each on a database and on the model; each run adds users of its own."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=factory)
        self.db = Database(self.url)

    def teardown(self) -> None:
        self.runner.run(self.db.close())
        self.runner.close()

    def run(self, call: Awaitable[Any]) -> Any:  # noqa: ANN401 - whatever the call returns
        async def awaited() -> Any:  # noqa: ANN401 - as above
            return await call

        return self.runner.run(awaited())

    def change(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:  # noqa: ANN401 - any of storage's
        async def changed() -> Any:  # noqa: ANN401 - as above
            async with self.db.transaction() as tx:
                return await function(tx, *arguments)

        return self.run(outcome_of(changed()))

    @initialize()
    def begin(self) -> None:
        rows = self.run(factories.add_users(self.db, USERS))
        self.model = Model([row.id for row in rows])
        for account in self.model.accounts:
            self.make(grant(account.user_id, 100))

    def make(self, operation: Operation, *, expired: bool = False) -> None:
        refusal = self.model.apply(operation)
        outcome = self.change(credits.make, operation)
        if refusal:
            assert type(outcome) is refusal
        elif operation.kind is EntryKind.HOLD:
            self.model.remember(outcome, expired=expired)

    def id_of(self, number: int) -> int:
        return self.model.accounts[number].user_id

    @rule(to=user, amount=amount)
    def grant(self, to: int, amount: int) -> None:
        self.make(grant(self.id_of(to), amount))

    @rule(pair=pair, amount=amount)
    def transfer(self, pair: list[int], amount: int) -> None:
        self.make(transfer(self.id_of(pair[0]), self.id_of(pair[1]), amount))

    @rule(pair=pair, amount=amount)
    def hold(self, pair: list[int], amount: int) -> None:
        self.make(hold(self.id_of(pair[0]), self.id_of(pair[1]), amount))

    @rule(pair=pair, amount=amount)
    def hold_for_a_moment(self, pair: list[int], amount: int) -> None:
        sender, receiver = map(self.id_of, pair)
        self.make(hold(sender, receiver, amount, moment), expired=True)

    @rule(batch=st.lists(st.tuples(pair, amount), min_size=1, max_size=5), atomic=st.booleans())
    def batch(self, batch: list[tuple[list[int], int]], *, atomic: bool) -> None:
        asked = [
            transfer(self.id_of(pair[0]), self.id_of(pair[1]), amount) for pair, amount in batch
        ]
        before = self.model.snapshot()
        refusals: list[Refusal] = [self.model.apply(each) for each in asked]
        if atomic and any(refusals):
            self.model.restore(before)
            first = next(at for at, refusal in enumerate(refusals) if refusal)
            refusals = [
                refusal if at == first else LinkedFailed for at, refusal in enumerate(refusals)
            ]

        async def made() -> Any:  # noqa: ANN401 - outcomes
            async with self.db.transaction() as tx:
                return await credits.make_all(tx, asked, atomic=atomic)

        outcomes = self.run(made())
        kinds = [None if isinstance(each, TransferRow) else type(each) for each in outcomes]
        assert kinds == refusals

    @rule(place=place, amount=st.none() | amount)
    def capture(self, place: int, amount: int | None) -> None:
        if not self.model.holds:
            return
        held = self.model.holds[place % len(self.model.holds)]
        outcome = self.change(holds.capture, held.transfer_id, amount)
        captured = held.amount if amount is None else amount
        if held.state is not State.PENDING:
            assert type(outcome) is HoldResolved
        elif captured > held.amount:
            assert type(outcome) is AmountTooLarge
        elif not (held.sender.active and held.receiver.active):
            assert type(outcome) is InactiveUser
        else:
            assert outcome.captured_amount == captured
            self.model.end(held, State.CAPTURED, captured)

    @rule(place=place)
    def release(self, place: int) -> None:
        if not self.model.holds:
            return
        held = self.model.holds[place % len(self.model.holds)]
        outcome = self.change(holds.release, held.transfer_id)
        if held.state is State.PENDING:
            assert outcome.state is State.RELEASED
            self.model.end(held, State.RELEASED)
        else:
            assert type(outcome) is HoldResolved

    @rule(limit=st.integers(1, 3))
    def note_expired(self, limit: int) -> None:
        assert self.change(holds.release_expired, limit) <= limit

    @rule(number=user, active=st.booleans())
    def change_activity(self, number: int, *, active: bool) -> None:
        account = self.model.accounts[number]
        if account.there:
            self.change(users.update, account.user_id, {"is_active": active})
            account.active = active

    @rule(number=user, empty=st.booleans())
    def delete(self, number: int, *, empty: bool) -> None:
        account = self.model.accounts[number]
        heir = self.model.accounts[(number + 1) % USERS]
        if empty and account.available:
            self.make(transfer(account.user_id, heir.user_id, account.available))
        outcome = self.change(users.delete, account.user_id)
        if not account.there:
            assert type(outcome) is NotFound
        elif (
            account.available or self.model.held(account) or self.model.held(account, incoming=True)
        ):
            assert type(outcome) is HasCredits
        else:
            assert outcome is None
            account.there = False

    @invariant()
    def balances_agree_and_the_audit_is_clean(self) -> None:
        there = [each for each in self.model.accounts if each.there]
        found = self.run(balances(self.db, *(each.user_id for each in there)))
        assert found == [(each.available, self.model.held(each)) for each in there]

    @invariant()
    def holds_are_in_the_state_that_they_are_in(self) -> None:
        async def states() -> list[State]:
            async with self.db.read() as read:
                rows = [await transfers.get(read, h.transfer_id) for h in self.model.holds]
            return [row.state for row in rows]

        assert self.run(states()) == [each.state for each in self.model.holds]


def run_model(url: str, examples: int, steps: int) -> None:
    run_state_machine_as_test(
        type("CreditsThere", (Credits,), {"url": url}),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            print_blob=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


async def test_any_sequence_of_operations_does_what_the_model_does(shared_url: str) -> None:
    await asyncio.to_thread(run_model, shared_url, 10, 25)


@pytest.mark.long
async def test_any_long_sequence_of_operations_does_what_the_model_does(shared_url: str) -> None:
    await asyncio.to_thread(run_model, shared_url, 50, 50)
