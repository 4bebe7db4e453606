"""A client as a caller has it: the generated stubs, and errors with their details read."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self, TypeVar

import byline.v1
import grpc
from byline.v1 import resources_pb2
from byline.v1.credits_pb2_grpc import CreditServiceStub
from byline.v1.posts_pb2_grpc import PostServiceStub
from byline.v1.profiles_pb2_grpc import ProfileServiceStub
from byline.v1.tags_pb2_grpc import TagServiceStub
from byline.v1.users_pb2_grpc import UserServiceStub
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator, Sequence
    from types import TracebackType

    from google.protobuf.descriptor import MethodDescriptor

Answer = TypeVar("Answer")
What = tuple[grpc.StatusCode, str, tuple[str, str]]

STATUS_DETAILS = "grpc-status-details-bin"


class Client:
    """Stubs of every service on one channel.

    Args:
        target: `host:port` of the server.
        credentials: what it connects with by TLS; None connects without.
        options: how the channel behaves: https://grpc.github.io/grpc/core/group__grpc__arg__keys.html
    """

    def __init__(
        self, target: str, credentials: grpc.ChannelCredentials | None = None, /, **options: int
    ) -> None:
        told = [(f"grpc.{name}", value) for name, value in options.items()]
        self.channel = (
            grpc.aio.secure_channel(target, credentials, options=told)
            if credentials
            else grpc.aio.insecure_channel(target, options=told)
        )
        self.users = UserServiceStub(self.channel)
        self.profiles = ProfileServiceStub(self.channel)
        self.posts = PostServiceStub(self.channel)
        self.tags = TagServiceStub(self.channel)
        self.credits = CreditServiceStub(self.channel)
        # Its types tell of no methods.
        self.health: Any = HealthStub(self.channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.channel.close()

    async def raw(
        self, method: str, request: bytes, metadata: Sequence[tuple[str, str]] = ()
    ) -> bytes:
        """Sends bytes to a method, as `byline.v1.UserService/GetUser`, whatever they are."""
        call = self.channel.unary_unary(
            f"/{method}", request_serializer=bytes, response_deserializer=bytes
        )
        return await call(request, metadata=metadata)

    async def reflect(self, version: str, metadata: Sequence[tuple[str, str]] = ()) -> set[str]:
        """Asks reflection, `v1` or `v1alpha`, which services there are.

        The question goes in one piece with the end of the stream. In a stream of its own it may
        be written after the server has refused the call, for which grpc.aio tells INTERNAL in
        place of what the server told: https://github.com/grpc/grpc/issues/36066
        """
        call = self.channel.unary_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=ServerReflectionRequest.SerializeToString,
            response_deserializer=ServerReflectionResponse.FromString,
        )(ServerReflectionRequest(list_services="*"), metadata=metadata)
        (answer,) = [each async for each in call]
        return {each.name for each in answer.list_services_response.service}


@dataclass(frozen=True)
class Refusal:
    """What a failed call told its caller."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    domain: str = ""
    fields: tuple[str, ...] = ()
    resource: tuple[str, str] = ("", "")
    retry_after: float | None = None
    details: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str | bytes] = field(default_factory=dict, compare=False)

    @property
    def what(self) -> What:
        """The status code, the reason with its domain, and the resource if one is named."""
        return self.code, f"{self.domain}/{self.reason}", self.resource


def rpcs() -> Iterator[MethodDescriptor]:
    """Yields the RPCs of every service in the package byline.v1."""
    for module in pkgutil.iter_modules(byline.v1.__path__, "byline.v1."):
        if module.name.endswith("_pb2"):
            for service in import_module(module.name).DESCRIPTOR.services_by_name.values():
                yield from service.methods


def taken(resource: str, name: str) -> What:
    """What is told of a value that another resource has; `name` is the field's."""
    return grpc.StatusCode.ALREADY_EXISTS, "byline/ALREADY_EXISTS", (resource, name)


def missing(resource: str, name: object) -> What:
    """What is told of a resource that is not there."""
    return grpc.StatusCode.NOT_FOUND, "byline/NOT_FOUND", (resource, str(name))


def stale(resource: str, name: object) -> What:
    """What is told of a resource that has changed since its etag was read."""
    return grpc.StatusCode.ABORTED, "byline/ETAG_MISMATCH", (resource, str(name))


def summary_of(post: resources_pb2.Post) -> resources_pb2.Post:
    """Returns what the SUMMARY view shows of a post."""
    shown = resources_pb2.Post()
    shown.CopyFrom(post)
    for name in ("content", "author", "tags"):
        shown.ClearField(name)
    return shown


async def outcome_of(call: Awaitable[Answer]) -> Answer | Refusal:
    """Awaits a call that may fail, and returns its answer or what it told instead."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        return _read(error)


async def refusal_of(call: Awaitable[object]) -> Refusal:
    """Awaits a call that is to fail, and returns what it told."""
    outcome = await outcome_of(call)
    assert isinstance(outcome, Refusal), f"the call was answered: {outcome}"
    return outcome


def read_status(status: status_pb2.Status) -> Refusal:
    """Returns what a status and its details tell."""
    known: dict[str, object] = {}
    for packed in status.details:
        name = packed.TypeName().removeprefix("google.rpc.")
        detail = getattr(error_details_pb2, name)()
        packed.Unpack(detail)
        match name:
            case "ErrorInfo":
                known |= {"reason": detail.reason, "domain": detail.domain}
                known["metadata"] = dict(detail.metadata)
            case "BadRequest":
                known["fields"] = tuple(each.field for each in detail.field_violations)
            case "ResourceInfo":
                known["resource"] = (detail.resource_type, detail.resource_name)
            case "RetryInfo":
                known["retry_after"] = detail.retry_delay.ToTimedelta().total_seconds()
    (code,) = (each for each in grpc.StatusCode if each.value[0] == status.code)
    return Refusal(
        code=code,
        message=status.message,
        details=tuple(each.TypeName().removeprefix("google.rpc.") for each in status.details),
        **known,  # type: ignore[arg-type] # each as its field is declared
    )


def _read(error: grpc.aio.AioRpcError) -> Refusal:
    trailers = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailers.get(STATUS_DETAILS, b""))
    told = read_status(status)
    return replace(told, code=error.code(), message=error.details() or "", trailers=trailers)
