"""What every RPC passes through, in one interceptor.

Bytes come in and bytes go out: reading the request, checking it, the deadline, retries, the error
table, the request id and the access log are here, and no servicer method repeats any of it. One
interceptor costs a call one coroutine, where six would cost six.
"""

from __future__ import annotations

import asyncio
import random
import sys
from dataclasses import dataclass
from functools import partial
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import protovalidate
from byline.v1 import access_pb2
from byline.v1 import errors_pb2 as reasons
from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError

from service import calls, logs
from service.calls import Call, encoded, milliseconds
from service.errors import (
    AnswerTooLarge,
    Code,
    DeadlineExceeded,
    InvalidRequest,
    Violation,
    failure_of,
)
from service.idempotency import REQUEST_ID_FIELD
from service.identity import caller
from service.metrics import Metrics
from service.policy import access_needed
from storage.errors import Contention
from storage.usage import Wait, usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from google.protobuf.message import Message
    from grpc.aio import ServicerContext

    from service.access import Guard
    from service.admission import Admission
    from service.idempotency import Idempotency, Serve
    from service.plans import Explainer
    from service.tracing import Tracing

    Context = ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]

Result = TypeVar("Result")

PREFIX = "/byline."
HEALTH = "/grpc.health."
CHANNELZ = "/grpc.channelz."
STATUS_DETAILS = "grpc-status-details-bin"
# More would not fit into the trailers that clients take: 8 KiB.
MOST_VIOLATIONS = 16
# Bytes of a request that is told all that is wrong with it, and not just the first: a violation
# takes 40 us to find, and a megabyte has room for a million.
LONGEST_EXPLAINED = 4096
# Seconds before the first retry at most; before each further one twice as long.
FIRST_BACKOFF = 0.02

_WAITED_FOR = {
    Wait.POOL: reasons.ERROR_REASON_POOL_WAIT,
    Wait.LOCK: reasons.ERROR_REASON_LOCK_WAIT,
    Wait.STATEMENT: reasons.ERROR_REASON_STATEMENT,
    Wait.NOTHING: reasons.ERROR_REASON_DEADLINE,
}
# A regular expression tells a caller little.
_PLAIN_WORDS = {"string.pattern": "has a character or a form that the contract does not allow here"}
# A caller's mistakes and misses are the caller's to see; these are the operator's.
_LEVELS = {
    Code.INTERNAL: "error",
    Code.UNAVAILABLE: "warning",
    Code.DEADLINE_EXCEEDED: "warning",
    Code.RESOURCE_EXHAUSTED: "warning",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a call may take, in seconds, how often it is tried, and how much it may answer.

    Args:
        default: for a call that brings no deadline.
        longest: for any call.
        margin: kept back from a deadline to answer in.
        retries: times a call is tried again after `Contention`.
        slow: from which on the log has a call as a warning, with its SQL; 0 for never.
        answer_bytes: of the answer to a read at most.
    """

    default: float = 30.0
    longest: float = 300.0
    margin: float = 0.02
    retries: int = 5
    slow: float = 1.0
    answer_bytes: int = 4_194_304


class Pipeline(grpc.aio.ServerInterceptor):
    """Wraps every method of Byline's own services, once, when it is first called.

    Attributes:
        taken: calls that have come.
    """

    def __init__(  # noqa: PLR0913 - each is a part of its own
        self,
        limits: Limits,
        idempotency: Idempotency,
        admission: Admission,
        explainer: Explainer,
        *,
        guard: Guard | None = None,
        metrics: Metrics | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.limits = limits
        self.guard = guard
        self.metrics = metrics or Metrics()
        self.tracing = tracing
        self.idempotency = idempotency
        self.admission = admission
        self.explainer = explainer
        self.validator = protovalidate.Validator()
        self._methods: dict[str, Handler] = {}
        self.taken = 0
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Returns the wrapped method; that of health is returned as it is."""
        path = handler_call_details.method
        wrapped = self._methods.get(path)
        if wrapped is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None or path.startswith(HEALTH):
            return handler
        if path.startswith(PREFIX):
            wrapped = grpc.unary_unary_rpc_method_handler(_Method(self, path, handler).call)
        elif path.startswith(CHANNELZ):
            wrapped = _guarded_channelz(self.guard, path, handler)
        else:
            wrapped = _guarded_reflection(self.guard, path, handler)
        self._methods[path] = wrapped
        return wrapped

    def enter(self) -> None:
        """Counts a call in."""
        self.taken += 1
        self._under_way += 1
        self._idle.clear()

    def leave(self) -> None:
        """Counts a call out."""
        self._under_way -= 1
        if not self._under_way:
            self._idle.set()

    @property
    def is_idle(self) -> bool:
        """Whether no call is under way."""
        return self._idle.is_set()

    async def idle(self) -> None:
        """Waits until no call is under way."""
        await self._idle.wait()


class _Method:
    """The whole way of a call to one method."""

    def __init__(self, pipeline: Pipeline, path: str, handler: Handler) -> None:
        name = path.removeprefix("/").replace("/", ".")
        descriptor = descriptor_pool.Default().FindMethodByName(name)
        self._pipeline = pipeline
        self._limits = pipeline.limits
        self._metrics = pipeline.metrics.method(path)
        self._tracing = pipeline.tracing
        self._path = path
        self._parse: Callable[[bytes], Message] = handler.request_deserializer  # type: ignore[assignment] # always set
        self._serve: Callable[[Message, Context], Awaitable[Message]] = handler.unary_unary  # type: ignore[assignment] # always set
        self._guard = pipeline.guard
        self._needed = access_needed(descriptor)
        self._gate = pipeline.admission.gate(self._needed)
        self._rates = pipeline.admission.rates
        # What a write answers is no more than it was sent, and to refuse it would not undo it.
        is_read = self._needed == access_pb2.ACCESS_READ
        self._most = pipeline.limits.answer_bytes if is_read else sys.maxsize
        self._takes_request_id = REQUEST_ID_FIELD in descriptor.input_type.fields_by_name

    async def call(self, raw: bytes, context: Context) -> bytes:
        """Answers the call, whatever happens."""
        call = Call.of(self._path, context)
        calls.current.set(call)
        usage.set(call.use)
        if self._tracing is not None:
            call.trace = self._tracing.begin(call, context)
        self._pipeline.enter()
        self._metrics.begin(len(raw))
        try:
            response = await self._answer(raw, context, call)
            if call.is_explained:
                await self._pipeline.explainer.explain(call)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                self._end(call, Code.CANCELLED)
                raise
            # A part of the call was cancelled, not the call. Left alone, grpc.aio sends no status
            # and the caller waits for ever.
            return await self._fail(error, context, call)
        except Exception as error:  # noqa: BLE001 - the error table has a row for everything
            return await self._fail(error, context, call)
        else:
            context.set_trailing_metadata(call.trailers)
            self._metrics.sent.add(len(response))
            self._end(call, Code.OK)
            return response
        finally:
            self._pipeline.leave()

    async def _answer(self, raw: bytes, context: Context, call: Call) -> bytes:
        """Waits for a turn, reads, checks, serves, and writes the response within the deadline."""
        seconds = self._seconds(context)
        call.use.deadline = monotonic() + seconds
        timeout = asyncio.timeout(seconds)
        try:
            async with timeout:
                if self._guard is not None:
                    await self._guard.admit(context, self._path, self._needed)
                if call.is_explained:
                    self._note_statements(call)
                if self._rates is not None:
                    self._rates.take(caller.get(), self._needed)
                async with self._gate:
                    began = perf_counter()
                    request = self._read(raw)
                    call.encoding += perf_counter() - began
                    answer = await self._respond(request, partial(self._serve, request, context))
        except TimeoutError:
            if not timeout.expired():
                raise
            raise DeadlineExceeded(_reason_of(call)) from None
        if len(answer) > self._most:
            raise AnswerTooLarge(len(answer), self._most)
        return answer

    def _note_statements(self, call: Call) -> None:
        """Has the call's statements noted, so that they can be explained.

        Raises:
            AccessDenied: when the caller may not see how the database works.
        """
        if self._guard is not None:
            self._guard.admit_to_plans()
        call.use.runs = call.use.runs or []

    def _seconds(self, context: Context) -> float:
        """The time this call may take.

        Raises:
            DeadlineExceeded: when there is none.
        """
        given: float | None = context.time_remaining()
        seconds = self._limits.default if given is None else given - self._limits.margin
        if seconds <= 0:
            raise DeadlineExceeded(reasons.ERROR_REASON_DEADLINE)
        return min(seconds, self._limits.longest)

    def _read(self, raw: bytes) -> Message:
        """Returns the request, parsed and checked against the contract.

        Raises:
            InvalidRequest: when it cannot be parsed, or breaks a rule.
        """
        try:
            request = self._parse(raw)
        except DecodeError:
            text = "the message cannot be read: it is cut short, or a string in it is not UTF-8"
            raise InvalidRequest(Violation("", text)) from None
        violations = self._pipeline.validator.collect_violations(
            request, fail_fast=len(raw) > LONGEST_EXPLAINED
        )
        if violations:
            raise InvalidRequest(*map(_to_violation, violations[:MOST_VIOLATIONS]))
        return request

    async def _respond(self, request: Message, serve: Serve) -> bytes:
        """Serves the request, once for its request id if it has one, and writes the response."""
        if self._takes_request_id and request.request_id:  # type: ignore[attr-defined] # looked up
            answer = self._pipeline.idempotency.answer
            return await answer(self._path, request, serve, self._patiently)
        return encoded(await self._patiently(serve))

    async def _patiently(self, act: Callable[[], Awaitable[Result]]) -> Result:
        """Acts again while others are in the way of the transaction."""
        for attempt in range(self._limits.retries):
            try:
                return await act()
            except Contention:
                # Nothing has been sent to the caller, and the transaction left no trace.
                calls.current.get().retries += 1
                await asyncio.sleep(random.uniform(0, FIRST_BACKOFF * 2**attempt))  # noqa: S311 - jitter
        return await act()

    async def _fail(self, error: BaseException, context: Context, call: Call) -> bytes:
        """Tells the caller what the error table says, and the log the rest.

        What it returns is not sent.
        """
        failure = failure_of(error, call.request_id)
        self._end(call, failure.code, error)
        if call.is_explained:
            await self._pipeline.explainer.explain(call)
        trailers = (*call.trailers, (STATUS_DETAILS, failure.trailer))
        try:
            await context.abort(failure.code, failure.message, trailers)
        except grpc.aio.AbortError as aborted:
            # gRPC's call keeps it, and raises it again. The way here, of which it tells, keeps that
            # call: 40 objects that only the garbage collector would find, which holds the loop.
            aborted.__traceback__ = aborted.__context__ = None
        return b""

    def _end(self, call: Call, code: Code, error: BaseException | None = None) -> None:
        """Counts the call, and writes the one line that every call gets."""
        seconds = call.seconds
        self._metrics.end(code, seconds, call.retries)
        level = _LEVELS.get(code, "info")
        more: dict[str, object] = _cause(code, error)
        if 0 < self._limits.slow <= seconds:
            level = "warning" if level == "info" else level
            more["sql"] = [str(each) for each in call.use.sent]
        if call.trace is not None:
            call.trace.end(call, code, error)
            more["trace_id"] = call.trace.trace_id
        logs.of_call(level, partial(_line, call, code, seconds, caller.get(), more))


def _line(
    call: Call, code: Code, seconds: float, name: str, more: dict[str, object]
) -> dict[str, object]:
    """What the log says of a call that has ended."""
    return {
        "method": call.method,
        "code": code.name,
        "request_id": call.request_id,
        "caller": name,
        "ms": milliseconds(seconds),
        **call.split,
        **more,
    }


def _reason_of(call: Call) -> reasons.ErrorReason.ValueType:
    """Says where the time of a call went that has none left."""
    if call.is_queued:
        return reasons.ERROR_REASON_OVERLOADED
    return _WAITED_FOR[call.use.waiting_for]


def _guarded_channelz(guard: Guard | None, path: str, handler: Handler) -> Handler:
    """Wraps a method that tells of connections, which takes admin access."""
    if guard is None:
        return handler
    tell: Callable[[Message, Context], Awaitable[Message]]
    tell = handler.unary_unary  # type: ignore[assignment] # typed for threads

    async def serve(request: Message, context: Context) -> Message:
        admitted = guard.admit(context, path, access_pb2.ACCESS_ADMIN)
        await _let_in(admitted, path, context)
        return await tell(request, context)

    return grpc.unary_unary_rpc_method_handler(
        serve,
        handler.request_deserializer,
        handler.response_serializer,
    )


def _guarded_reflection(guard: Guard | None, path: str, handler: Handler) -> Handler:
    """Wraps the one method that tells the schema."""
    if guard is None:
        return handler
    reflect: Callable[[AsyncIterator[Message], Context], AsyncIterator[Message]]
    reflect = handler.stream_stream  # type: ignore[assignment] # typed for threads

    async def serve(requests: AsyncIterator[Message], context: Context) -> AsyncIterator[Message]:
        await _let_in(guard.admit_reflection(context, path), path, context)
        async for response in reflect(requests, context):
            yield response

    return grpc.stream_stream_rpc_method_handler(
        serve,
        handler.request_deserializer,
        handler.response_serializer,
    )


async def _let_in(admitted: Awaitable[None], path: str, context: Context) -> None:
    """Ends a call that is none of Byline's own services, if it may not be made."""
    try:
        await admitted
    except Exception as error:  # noqa: BLE001 - the error table has a row for everything
        failure = failure_of(error, Call.of(path, context).request_id)
        told = {"method": path, "code": failure.code.name, "caller": caller.get()}
        logs.of_call("info", lambda: told)
        trailers = ((STATUS_DETAILS, failure.trailer),)
        await context.abort(failure.code, failure.message, trailers)


def _cause(code: Code, error: BaseException | None) -> dict[str, object]:
    """What the log says of an error: all of it for a fault of ours, its kind for the rest."""
    if error is None:
        return {}
    if code is Code.INTERNAL:
        return {"exc_info": error}
    return {"error": type(error).__name__}


def _to_violation(found: protovalidate.Violation) -> Violation:
    rule = found.proto
    parts = [
        f"{element.field_name}[{element.subscript.value}]"
        if element.subscript is not None
        else element.field_name
        for element in (rule.field.elements if rule.field else ())
    ]
    text = _PLAIN_WORDS.get(rule.rule_id, rule.message)
    if not rule.rule and ": " in text:
        # A rule about several fields names in its message the one that is at fault.
        field, _, text = text.partition(": ")
        parts.append(field)
    return Violation(".".join(parts), text)
