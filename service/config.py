"""Settings: one frozen object, read once, and the only reader of the environment."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, distribution
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    Field,
    FilePath,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from storage.dialects.urls import check_url

HIGHEST_PORT = 0xFFFF
IPV6 = 6
# PostgreSQL counts its timeouts in milliseconds, in 31 bits.
LONGEST = 2_147_483
HIGHEST_WORD = 0xFFFF_FFFF
# gRPC's options are of 31 bits.
HIGHEST_SIGNED = 0x7FFF_FFFF
HIGHEST_RATIO = 1000
LOWEST_RATE = 0.001
HIGHEST_RATE = 1_000_000
# As much as the digests hold: RFC 2104.
SHORTEST_KEY = 32
# argon2 refuses less: RFC 9106.
KIB_PER_LANE = 8

Seconds = Annotated[float, Field(ge=0, le=LONGEST, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, Field(gt=0, le=LONGEST, allow_inf_nan=False)]


class Address(NamedTuple):
    """A host and a port to listen on; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        """Returns `host:port`, with an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Returns the address that `HOST:PORT` or `[IPV6]:PORT` means.

    Raises:
        ValueError: when it means none.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if (
        not colon
        or not host
        or not port.isascii()
        or not port.isdigit()
        or int(port) > HIGHEST_PORT
    ):
        raise ValueError("is not HOST:PORT")
    if (":" in host) != bracketed or (bracketed and ip_address(host).version != IPV6):
        raise ValueError("is not HOST:PORT; an IPv6 address goes in brackets")
    return Address(host, int(port))


def _listenable(text: str) -> str:
    return str(parse_address(text))


def _reachable(url: str) -> str:
    check_url(url)
    return url


def _collector(where: str) -> str:
    url = urlsplit(where)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ValueError("is neither http://HOST:PORT nor https://HOST:PORT")
    try:
        distribution("opentelemetry-exporter-otlp-proto-grpc")
    except PackageNotFoundError:
        raise ValueError("takes the extra otel: uv sync --extra otel") from None
    return where


def _keys(where: str) -> str:
    url = urlsplit(where)
    # Whoever can change the keys on their way can sign as anybody.
    if "://" in where and (url.scheme != "https" or not url.hostname):
        raise ValueError("is neither a file nor https://HOST/PATH")
    if "://" not in where and not Path(where).is_file():
        raise ValueError("is not a file, nor https://HOST/PATH")
    return where


class Settings(BaseSettings):
    """Everything that can be set, with its default. `byline serve --help` prints this table."""

    model_config = SettingsConfigDict(
        env_prefix="BYLINE_", env_file=".env", extra="ignore", frozen=True
    )

    listen: Annotated[str, AfterValidator(_listenable)] = Field(
        "127.0.0.1:50051", description="address to serve on, HOST:PORT; port 0 takes a free one"
    )
    workers: PositiveInt = Field(
        1, description="processes that share the port, each with its own loop and pool"
    )
    metrics_listen: Annotated[str, AfterValidator(_listenable)] | None = Field(
        None,
        description="address of /metrics, /livez and /readyz over HTTP, HOST:PORT; "
        "nowhere unless set",
    )
    data_dir: Path = Field(
        Path("byline-data"), description="where the embedded PostgreSQL keeps its data"
    )
    database_url: Annotated[str, AfterValidator(_reachable)] | None = Field(
        None,
        description="your own database instead of the embedded PostgreSQL: "
        "postgresql+asyncpg://USER:PASSWORD@HOST/NAME, mysql+asyncmy://USER:PASSWORD@HOST/NAME "
        "or sqlite+aiosqlite:///FILE",
        repr=False,
    )
    migrate: bool = Field(
        default=False,
        description="bring the schema up to date before serving; embedded and SQLite: always",
    )

    insecure: bool = Field(
        default=False,
        description="serve on any address without TLS or authentication",
    )
    tls_certificate: FilePath | None = Field(
        None, description="the server's certificate and those it comes from, PEM; TLS if set"
    )
    tls_key: FilePath | None = Field(None, description="the certificate's private key, PEM")
    tls_client_ca: FilePath | None = Field(
        None,
        description="certificates that those of clients come from, PEM; every client needs one",
    )
    tokens: FilePath | None = Field(
        None, description="bearer tokens, a line each: SHA-256 in hex, and whose it is"
    )
    jwt_keys: Annotated[str, AfterValidator(_keys)] | None = Field(
        None, description="JWKS that JSON Web Tokens are signed with: a file or an https URL"
    )
    jwt_issuer: str | None = Field(None, min_length=1, description="the tokens' iss")
    jwt_audience: str | None = Field(None, min_length=1, description="one of the tokens' aud")
    jwt_skew: Seconds = Field(
        30, description="seconds by which the clocks of issuer and server may differ"
    )
    policy: FilePath | None = Field(
        None, description="who may do what, TOML: docs/operations.md tells how"
    )
    reflection_access: Literal["open", "read", "write", "admin"] = Field(
        "read", description="access that asking for the schema takes; open is none"
    )

    pool_size: PositiveInt = Field(15, description="database connections kept open per worker")
    pool_overflow: Annotated[int, Field(ge=0)] = Field(
        0, description="connections opened above that while all are busy"
    )
    pool_wait: PositiveSeconds = Field(5, description="seconds a call waits for a connection")
    pool_recycle: PositiveSeconds = Field(
        1800, description="seconds after which a connection is replaced"
    )
    connect_timeout: PositiveSeconds = Field(
        5, description="seconds that opening a connection may take"
    )
    statement_timeout: Seconds = Field(
        30, description="seconds a statement may run; 0 for no bound"
    )
    lock_timeout: Seconds = Field(
        10, description="seconds a statement waits for a lock; 0 for no bound"
    )

    default_deadline: PositiveSeconds = Field(
        30, description="seconds for a call that brings no deadline"
    )
    max_deadline: PositiveSeconds = Field(
        300, description="seconds for a call at most, whatever its deadline"
    )
    deadline_margin: Seconds = Field(
        0.02, description="seconds kept back from a deadline to answer in"
    )
    contention_retries: Annotated[int, Field(ge=0)] = Field(
        5, description="times a transaction is tried again after a deadlock or the like"
    )

    max_reads: PositiveInt | None = Field(
        None,
        description="calls under way at once per worker that read; "
        "4 for each database connection unless set",
    )
    max_writes: PositiveInt | None = Field(
        None,
        description="those that write; 4 for each database connection unless set",
    )
    max_admin: PositiveInt | None = Field(
        None,
        description="those that administer; 1 for each database connection unless set",
    )
    call_queue: Annotated[float, Field(ge=0, le=HIGHEST_RATIO)] = Field(
        1,
        description="calls of each kind that may wait for every one that may be under way, "
        "before calls are refused",
    )
    caller_rate: Annotated[float, Field(ge=LOWEST_RATE, le=HIGHEST_RATE)] | None = Field(
        None,
        description="calls a second per worker that each caller may make; any number unless set",
    )
    caller_burst: PositiveInt | None = Field(
        None,
        description="calls that a caller may make at once after a pause; "
        "a second's worth unless set",
    )
    max_request_bytes: Annotated[int, Field(gt=0, le=HIGHEST_SIGNED)] = Field(
        4_194_304, description="size of a request at most"
    )
    max_answer_bytes: Annotated[int, Field(gt=0, le=HIGHEST_SIGNED)] = Field(
        4_194_304,
        description="size of the answer to a read at most; callers' libraries take as much",
    )
    max_streams: Annotated[int, Field(gt=0, le=HIGHEST_SIGNED)] = Field(
        256, description="calls at once on one connection of a client; its library has more wait"
    )
    keepalive_interval: PositiveSeconds = Field(
        60, description="seconds of silence after which a client is asked whether it is there"
    )
    keepalive_timeout: PositiveSeconds = Field(
        20, description="seconds in which it has to answer before its connection is closed"
    )
    min_ping_interval: PositiveSeconds = Field(
        10, description="seconds between pings of a client at least; one that pings on is cut off"
    )
    max_connection_age: PositiveSeconds = Field(
        600,
        description="seconds after which a client is to connect anew, and may find another server",
    )
    max_connection_age_grace: PositiveSeconds = Field(
        300, description="seconds that calls on such a connection get to end"
    )

    request_retention: PositiveSeconds = Field(
        86400, description="seconds for which a call with a request id can be sent again"
    )
    request_key: Annotated[str, Field(min_length=SHORTEST_KEY)] | None = Field(
        None,
        description="a secret of 32 characters or more that requests are digested with; "
        "one is kept in the database unless set",
        repr=False,
    )
    gather_transfers: bool = Field(
        default=True,
        description="make transfers that meet in an account in one transaction, as they come",
    )
    maintenance_interval: PositiveSeconds = Field(
        60, description="seconds between rounds of maintenance, give or take half"
    )

    health_interval: PositiveSeconds = Field(
        1, description="seconds between looks at the database for grpc.health.v1"
    )
    health_patience: Seconds = Field(
        3, description="seconds of failing looks before health turns to NOT_SERVING"
    )
    drain_pause: Seconds = Field(
        1,
        description="seconds between NOT_SERVING and refusing calls, for load balancers, "
        "and up to 5 more until none come; 0 for neither",
    )
    drain_grace: Seconds = Field(
        20, description="seconds that calls under way get to end before they are cancelled"
    )

    hash_time_cost: Annotated[int, Field(gt=0, le=HIGHEST_WORD)] = Field(
        3, description="argon2id passes over memory"
    )
    hash_memory_kib: Annotated[int, Field(ge=KIB_PER_LANE, le=HIGHEST_WORD)] = Field(
        65536, description="argon2id memory in KiB"
    )
    hash_parallelism: PositiveInt = Field(4, description="argon2id lanes")
    hash_threads: PositiveInt = Field(
        default_factory=lambda: os.cpu_count() or 1,
        description="passwords hashed at once per worker; one per core unless set",
    )
    hash_queue: Annotated[int, Field(ge=0)] = Field(
        64, description="passwords that may wait to be hashed before calls are refused"
    )

    slow_call: Seconds = Field(
        1,
        description="seconds from which on a call is a warning in the log, with its SQL; "
        "0 for never",
    )
    otlp_endpoint: Annotated[str, AfterValidator(_collector)] | None = Field(
        None,
        description="where traces go by OTLP over gRPC: http://HOST:4317, or https:// for TLS; "
        "nowhere unless set, and takes the extra otel",
    )
    trace_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        1, description="part of the calls that is traced whose callers do not say"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe log lines to write"
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto is console on a terminal and json elsewhere"
    )

    @field_validator("hash_parallelism")
    @classmethod
    def _has_memory(cls, lanes: int, info: ValidationInfo) -> int:
        memory: int = info.data.get("hash_memory_kib", HIGHEST_WORD)
        if lanes * KIB_PER_LANE > memory:
            raise ValueError(f"each lane takes {KIB_PER_LANE} KiB, and hash_memory_kib is {memory}")
        return lanes

    @property
    def metrics_address(self) -> Address | None:
        """Where the metrics are to be had, if they are."""
        return parse_address(self.metrics_listen) if self.metrics_listen else None

    @property
    def pool_limit(self) -> int:
        """Database connections that one worker opens at most, the one of its health among them."""
        return self.pool_size + self.pool_overflow + 1


class SettingsError(Exception):
    """A value that a setting cannot take, said in one line."""


def load(**flags: object) -> Settings:
    """Returns the settings: flag over environment over `.env` file over default.

    Args:
        flags: the flags that were given, by setting name.

    Raises:
        SettingsError: names the first bad value, how it was to be set, and what is wrong with it.
    """
    try:
        return Settings(**flags)  # type: ignore[arg-type] # pydantic checks the values
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        given = f"--{name.replace('_', '-')}" if name in flags else f"BYLINE_{name.upper()}"
        reason = str(first.get("ctx", {}).get("error") or first["msg"])
        may_be_shown = Settings.model_fields[name].repr
        shown = f" {first['input']!r}" if may_be_shown else ""
        raise SettingsError(f"{given}{shown}: {reason}") from None
    except UnicodeDecodeError:
        raise SettingsError(".env: is not UTF-8") from None
