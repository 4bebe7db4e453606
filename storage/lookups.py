"""Rows that are looked up at once by id are read at once, by one statement.

While a read is under way, the next ones would each take a connection and a statement of their own.
They wait here instead, and one statement reads the rows of all of them, once nobody else is on the
way. Whoever comes while nothing is under way waits for nothing.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from storage.errors import NotFound
from storage.lull import until_none_comes
from storage.usage import Usage, Wait, usage, waiting_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from storage.database import Database
    from storage.sessions import Read

Row = TypeVar("Row")

# Rows that one statement reads at most: others wait for it meanwhile.
MOST = 200


class _Waiting(NamedTuple, Generic[Row]):
    """A row that somebody waits for."""

    row_id: int
    use: Usage
    found: asyncio.Future[Row | None]


class Lookups(Generic[Row]):
    """Reads rows of one resource by id.

    Args:
        database: where the rows are.
        resource: what they are called in the singular, for errors: `user`.
        batch_get: reads those of some rows that there are, by id.
    """

    def __init__(
        self,
        database: Database,
        resource: str,
        batch_get: Callable[[Read, Sequence[int]], Awaitable[Mapping[int, Row]]],
    ) -> None:
        self._database = database
        self._resource = resource
        self._batch_get = batch_get
        # What the read that is under way has used.
        self._use = Usage()
        self._waiting: list[_Waiting[Row]] = []
        self._is_under_way = False
        self._task: asyncio.Task[None] | None = None

    async def get(self, row_id: int) -> Row:
        """Returns a row, as it is once the call has begun.

        A caller who is cancelled takes nothing from the others. What goes wrong with a statement,
        all hear of whose rows it was to read.

        Raises:
            NotFound: when there is no such row.
            StorageError: as `Database.read` and `Read.execute` do.
        """
        found = await (self._along(row_id) if self._is_under_way else self._first(row_id))
        if found is None:
            raise NotFound(self._resource, row_id)
        return found

    async def _first(self, row_id: int) -> Row | None:
        """Reads a row at once, and has those that are asked for meanwhile read after it."""
        self._is_under_way = True
        try:
            return (await self._read([row_id])).get(row_id)
        finally:
            if self._waiting:
                # The deadline of a caller is not that of all.
                self._task = asyncio.create_task(self._run(), context=Context())
            else:
                self._is_under_way = False

    async def _along(self, row_id: int) -> Row | None:
        """Waits for a row that is read with others."""
        found: asyncio.Future[Row | None] = asyncio.get_running_loop().create_future()
        with waiting_for(Wait.STATEMENT) as use:
            self._waiting.append(_Waiting(row_id, use, found))
            try:
                return await found
            except asyncio.CancelledError:
                use.waiting_for = self._use.waiting_for
                raise

    async def _run(self) -> None:
        """Reads what is waited for, until nothing is."""
        while True:
            await until_none_comes(self._waiting, MOST)
            if not self._waiting:
                break
            batch = self._waiting[:MOST]
            del self._waiting[:MOST]
            await self._serve([each for each in batch if not each.found.done()])
        self._is_under_way = False

    async def _serve(self, batch: Sequence[_Waiting[Row]]) -> None:
        """Reads rows, and tells each caller the outcome."""
        if not batch:
            return
        usage.set(Usage.shared_by(each.use for each in batch))
        rows: Mapping[int, Row] = {}
        failure: Exception | None = None
        try:
            rows = await self._read([each.row_id for each in batch])
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers are to hear of it
            failure = error
        for waiting in batch:
            waiting.use.add_shared(self._use)
            if waiting.found.done():
                continue  # its caller has left
            if failure is not None:
                waiting.found.set_exception(failure)
            else:
                waiting.found.set_result(rows.get(waiting.row_id))

    async def _read(self, ids: Sequence[int]) -> Mapping[int, Row]:
        use = usage.get(None)
        self._use = Usage() if use is None else use
        async with self._database.read() as read:
            return await self._batch_get(read, ids)
