"""Traces of calls by OpenTelemetry: a span for the call, and one for each statement of its.

The spans of statements are made when the call has ended, from the times that were noted while it
was under way. A call that is not sampled notes none. Nothing imports this unless traces are asked
for: what it stands on is an extra.
"""

from __future__ import annotations

import asyncio
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.errors import Code

if TYPE_CHECKING:
    from grpc.aio import ServicerContext
    from opentelemetry.trace import Span, Tracer

    from service.calls import Call
    from storage.usage import Run

    Context = ServicerContext[Any, Any]

# Seconds that sending spans may take, and the last ones when a server stops.
PATIENCE = 5.0
SYSTEMS = {"postgresql": "postgresql", "mysql": "mariadb", "sqlite": "sqlite"}
# The codes that are the server's doing, and not its caller's: as the semantic conventions have it.
FAULTS = {
    Code.UNKNOWN,
    Code.DEADLINE_EXCEEDED,
    Code.UNIMPLEMENTED,
    Code.INTERNAL,
    Code.UNAVAILABLE,
    Code.DATA_LOSS,
}
# W3C Trace Context.
_PROPAGATOR = TraceContextTextMapPropagator()


class Trace:
    """The span of a call that is under way.

    Args:
        tracer: makes the spans of its statements.
        span: the call's.
        system: which kind of database it uses.
    """

    def __init__(self, tracer: Tracer, span: Span, system: str) -> None:
        self._tracer = tracer
        self._span = span
        self._system = system
        # What nanoseconds since 1970 are ahead of the clock that statements are noted by.
        self._ahead = time.time_ns() - time.perf_counter_ns()

    @property
    def trace_id(self) -> str:
        """Which trace it is a part of, in hex."""
        return f"{self._span.get_span_context().trace_id:032x}"

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What says which span this is: `traceparent`, and `tracestate` where there is one."""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, set_span_in_context(self._span))
        return tuple(carrier.items())

    def end(self, call: Call, code: Code, error: BaseException | None) -> None:
        """Ends the span, and makes those of the statements."""
        if not self._span.is_recording():
            return
        self._span.set_attribute("rpc.response.status_code", code.name)
        self._span.set_attributes({f"byline.{name}": value for name, value in call.split.items()})
        if error is not None:
            self._span.set_attribute("error.type", type(error).__name__)
        if code in FAULTS:
            # The text of an error may have values.
            self._span.set_status(Status(StatusCode.ERROR))
        within = set_span_in_context(self._span)
        for run in call.use.runs or ():
            started = self._ahead + round(run.started * 1e9)
            span = self._tracer.start_span(
                run.function,
                within,
                kind=SpanKind.CLIENT,
                attributes=self._attributes_of(run),
                start_time=started,
            )
            if run.failure:
                span.set_status(Status(StatusCode.ERROR))
            span.end(started + round(run.seconds * 1e9))
        self._span.end()

    def _attributes_of(self, run: Run) -> dict[str, str]:
        sql = str(run)
        attributes = {
            "db.system.name": self._system,
            "db.query.text": sql,
            "db.operation.name": sql.split(maxsplit=1)[0],
        }
        if run.failure:
            attributes["error.type"] = run.failure
        return attributes


class Tracing:
    """Makes the spans of a server's calls, and sends them to a collector.

    Args:
        endpoint: where the collector is: `http://HOST:4317`, or `https://` for TLS.
        ratio: which part of the calls is traced whose callers say nothing of it.
        dialect: which kind of database the calls use: `postgresql`, `mysql` or `sqlite`.
    """

    def __init__(self, endpoint: str, ratio: float, dialect: str) -> None:
        self._system = SYSTEMS[dialect]
        about = {"service.name": "byline", "service.version": version("byline")}
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=Resource.create(about),
            shutdown_on_exit=False,
        )
        self._exporter = OTLPSpanExporter(endpoint=endpoint, timeout=PATIENCE)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("byline", about["service.version"])

    def begin(self, call: Call, context: Context) -> Trace:
        """Begins the span of a call that has just come, below its caller's if it names one."""
        carrier = {
            key: value
            for key, value in context.invocation_metadata() or ()
            if key in _PROPAGATOR.fields and isinstance(value, str)
        }
        span = self._tracer.start_span(
            call.method.removeprefix("/"),
            _PROPAGATOR.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={
                "rpc.system.name": "grpc",
                "rpc.method": call.method.removeprefix("/"),
                "byline.request_id": call.request_id,
            },
        )
        if span.is_recording():
            call.use.runs = []
        return Trace(self._tracer, span, self._system)

    async def close(self) -> None:
        """Sends the last spans, if the collector takes them in time."""
        closing = asyncio.create_task(asyncio.to_thread(self._provider.shutdown))
        await asyncio.wait([closing], timeout=PATIENCE)
        if not closing.done():
            # What is being sent is given up.
            self._exporter.shutdown()
            await closing
