"""The batches of operations that gRPC is asked for, which are freed though callers leave."""

from __future__ import annotations

from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING, Any

from grpc._cython import cygrpc  # type: ignore[attr-defined] # the stubs pass over it

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Generator

    Execute = Callable[[Any, tuple[Any, ...], Any], Coroutine[Any, Any, None]]
    Begin = Callable[[Any, tuple[Any, ...], Any], asyncio.Future[None]]


def free_all() -> None:
    """Has gRPC free every batch that began, those that fail or are given up among them.

    grpc.aio frees a batch where it goes on after it has waited for it, and never comes there if the
    batch fails or the one who waits is cancelled. 80 bytes stay for each operation, and the message
    if one had come (https://github.com/grpc/grpc/issues/43360). A gRPC that has no such function is
    left as it is.
    """
    with suppress(AttributeError):
        cygrpc.execute_batch = to_the_end(cygrpc.execute_batch)


def to_the_end(execute: Execute) -> Begin:
    """Returns what begins a batch and returns the future of its end, at which gRPC goes on with it.

    Args:
        execute: gRPC's own, told of the call, of the operations, and of the loop. It asks the loop
            for a future and waits for it; its completion queue finds the loop to tell the future
            in.
    """

    def execute_batch(
        call: object,
        operations: tuple[Any, ...],
        loop: Any,  # noqa: ANN401 - gRPC's
    ) -> asyncio.Future[None]:
        batch = _Batch(loop)
        batch.begin(execute(call, operations, batch))
        return batch.over

    return execute_batch


class _Batch:
    """A batch under way, which gRPC takes for its loop and for the future it waits for."""

    __slots__ = ("_loop", "_rest", "_thread", "over")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = get_ident()
        self.over = loop.create_future()

    def begin(self, rest: Coroutine[Any, Any, None]) -> None:
        self._rest = rest
        rest.send(None)

    # As the loop.

    def create_future(self) -> _Batch:
        return self

    def call_soon_threadsafe(self, callback: Callable[..., None], *args: object) -> None:
        if get_ident() == self._thread:
            callback(*args)
        else:
            self._loop.call_soon_threadsafe(callback, *args)

    # As the future.

    def __await__(self) -> Generator[None]:
        yield

    def cancelled(self) -> bool:
        return False

    def set_result(self, _: None) -> None:
        self._end(None)

    def set_exception(self, error: Exception) -> None:
        self._end(error)

    def _end(self, error: Exception | None) -> None:
        """Has gRPC go on, which frees the batch, and tells whoever still waits."""
        rest = self._rest
        del self._rest
        try:
            rest.send(None)
        except StopIteration:
            pass
        except Exception as failure:  # noqa: BLE001 - whoever waits is to be told of any
            # Not with this frame, which knows it too.
            error = failure.with_traceback(None)
        if self.over.cancelled():
            return
        if error is None:
            self.over.set_result(None)
        else:
            self.over.set_exception(error)
