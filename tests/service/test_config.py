"""Settings: where they come from, which counts more, and what is refused."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from pydantic import ValidationError

from service import config
from service.config import Address, Settings, SettingsError, load, parse_address

URL = "postgresql+asyncpg://ada:secret@127.0.0.1:5432/byline"
# A value that no machine has a use for, and what is wrong with it.
BAD = [
    ("listen", "50051", "is not HOST:PORT"),
    ("listen", "localhost:", "is not HOST:PORT"),
    ("listen", ":50051", "is not HOST:PORT"),
    ("listen", "localhost:65536", "is not HOST:PORT"),
    ("listen", "localhost:-1", "is not HOST:PORT"),
    ("listen", "::1:50051", "in brackets"),
    ("listen", "[127.0.0.1]:50051", "in brackets"),
    ("listen", "[not:six]:50051", "IPv4 or IPv6"),
    ("metrics_listen", "9464", "is not HOST:PORT"),
    ("metrics_listen", "", "is not HOST:PORT"),
    ("workers", "0", "greater than 0"),
    ("workers", "two", "valid integer"),
    ("workers", "1.5", "valid integer"),
    ("database_url", "", "must start with postgresql+asyncpg://, mysql+asyncmy:// or sqlite"),
    ("database_url", "postgresql://localhost/byline", "must start with postgresql+asyncpg://"),
    ("database_url", "mysql://localhost/byline", "must start with postgresql+asyncpg://"),
    ("database_url", "sqlite:///byline.db", "must start with postgresql+asyncpg://"),
    ("database_url", "sqlite+aiosqlite://", "is not sqlite+aiosqlite:///FILE"),
    ("database_url", "sqlite+aiosqlite:///:memory:", "is not sqlite+aiosqlite:///FILE"),
    ("database_url", "sqlite+aiosqlite://byline.db", "three slashes"),
    ("database_url", "sqlite+aiosqlite:///byline.db?mode=ro", "takes no mode"),
    ("database_url", "mysql+asyncmy://localhost:port/byline", "is not mysql+asyncmy://"),
    ("database_url", "mysql+asyncmy://localhost/byline?ssl=true", "ssl is spelt ssl_ca"),
    (
        "database_url",
        "postgresql+asyncpg://localhost:port/byline",
        "is not postgresql+asyncpg://USER",
    ),
    ("database_url", f"{URL}?sslmode=require", "sslmode is spelt ssl"),
    ("database_url", f"{URL}?timeout=5", "takes no timeout"),
    ("insecure", "perhaps", "valid boolean"),
    ("tls_certificate", "nowhere", "does not point to a file"),
    ("tls_key", "nowhere", "does not point to a file"),
    ("tls_client_ca", "nowhere", "does not point to a file"),
    ("tokens", "nowhere", "does not point to a file"),
    ("jwt_keys", "nowhere", "is not a file, nor https://HOST/PATH"),
    ("jwt_keys", "http://issuer.example.com/keys", "is neither a file nor https://HOST/PATH"),
    ("jwt_keys", "https:///keys", "is neither a file nor https://HOST/PATH"),
    ("jwt_issuer", "", "at least 1 character"),
    ("jwt_audience", "", "at least 1 character"),
    ("jwt_skew", "-1", "greater than or equal to 0"),
    ("policy", "nowhere", "does not point to a file"),
    ("reflection_access", "none", "'open', 'read', 'write' or 'admin'"),
    ("otlp_endpoint", "localhost:4317", "is neither http://HOST:PORT nor https://HOST:PORT"),
    ("otlp_endpoint", "http://", "is neither http://HOST:PORT nor https://HOST:PORT"),
    ("trace_ratio", "1.1", "less than or equal to 1"),
    ("migrate", "perhaps", "valid boolean"),
    ("gather_transfers", "sometimes", "valid boolean"),
    ("pool_size", "0", "greater than 0"),
    ("pool_overflow", "-1", "greater than or equal to 0"),
    ("pool_wait", "0", "greater than 0"),
    ("pool_wait", "nan", "finite number"),
    ("pool_recycle", "soon", "valid number"),
    ("connect_timeout", "inf", "finite number"),
    # Milliseconds that do not fit into 31 bits.
    ("statement_timeout", "2147484", "less than or equal to"),
    ("lock_timeout", "-0.1", "greater than or equal to 0"),
    ("default_deadline", "0", "greater than 0"),
    ("max_deadline", "1e300", "less than or equal to"),
    ("deadline_margin", "-1", "greater than or equal to 0"),
    ("contention_retries", "-1", "greater than or equal to 0"),
    ("max_reads", "0", "greater than 0"),
    ("max_writes", "many", "valid integer"),
    ("max_admin", "-1", "greater than 0"),
    ("call_queue", "-0.5", "greater than or equal to 0"),
    ("call_queue", "nan", "less than or equal to"),
    ("caller_rate", "0", "greater than or equal to 0.001"),
    ("caller_rate", "inf", "less than or equal to"),
    ("caller_burst", "0", "greater than 0"),
    ("max_request_bytes", "0", "greater than 0"),
    ("max_request_bytes", "2147483648", "less than or equal to"),
    ("max_answer_bytes", "0", "greater than 0"),
    ("max_streams", "0", "greater than 0"),
    ("keepalive_interval", "0", "greater than 0"),
    ("keepalive_timeout", "0", "greater than 0"),
    ("min_ping_interval", "0", "greater than 0"),
    ("max_connection_age", "0", "greater than 0"),
    ("max_connection_age_grace", "0", "greater than 0"),
    ("request_retention", "0", "greater than 0"),
    ("request_key", "x" * 31, "at least 32 characters"),
    ("maintenance_interval", "0", "greater than 0"),
    ("health_interval", "0", "greater than 0"),
    ("health_patience", "-1", "greater than or equal to 0"),
    ("drain_pause", "inf", "finite number"),
    ("drain_grace", "-1", "greater than or equal to 0"),
    ("hash_time_cost", "0", "greater than 0"),
    ("hash_time_cost", "4294967296", "less than or equal to"),
    ("hash_memory_kib", "7", "greater than or equal to 8"),
    ("hash_memory_kib", "4294967296", "less than or equal to"),
    ("hash_parallelism", "0", "greater than 0"),
    ("hash_parallelism", "8193", "each lane takes 8 KiB, and hash_memory_kib is 65536"),
    ("hash_threads", "0", "greater than 0"),
    ("hash_queue", "-1", "greater than or equal to 0"),
    ("slow_call", "-1", "greater than or equal to 0"),
    ("log_level", "loud", "'debug', 'info', 'warning' or 'error'"),
    ("log_format", "xml", "'auto', 'json' or 'console'"),
]

# Settings whose values are shown nowhere.
SECRET = {"database_url", "request_key"}

pytestmark = pytest.mark.usefixtures("plain_environment")


def test_a_flag_counts_over_the_environment_over_a_file_over_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load().workers == 1
    Path(".env").write_text("BYLINE_WORKERS=2\n")
    assert load().workers == 2
    monkeypatch.setenv("BYLINE_WORKERS", "3")
    assert load().workers == 3
    assert load(workers="4").workers == 4


def test_a_file_may_hold_settings_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("# ours\nBYLINE_POOL_SIZE=7\nPOSTGRES_PASSWORD=theirs\n")
    monkeypatch.setenv("POSTGRES_USER", "theirs")
    assert load().pool_size == 7


@pytest.mark.parametrize(("name", "value", "reason"), BAD)
def test_a_bad_value_is_refused_in_one_line_that_names_the_flag(
    name: str, value: str, reason: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        load(**{name: value})
    flag = "--" + name.replace("_", "-")
    assert str(refused.value).startswith(f"{flag}: " if name in SECRET else f"{flag} ")
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)
    assert (repr(value) in str(refused.value)) == (name not in SECRET)


def test_every_setting_with_a_bad_value_has_one_that_is_refused() -> None:
    anything_goes = {"data_dir"}
    assert {name for name, _, _ in BAD} == Settings.model_fields.keys() - anything_goes


def test_a_bad_value_that_is_not_a_flags_is_named_as_the_environment_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path(".env").write_text("BYLINE_DRAIN_GRACE=long\n")
    with pytest.raises(SettingsError, match=r"^BYLINE_DRAIN_GRACE 'long': "):
        load()
    monkeypatch.setenv("BYLINE_DRAIN_GRACE", "longer")
    with pytest.raises(SettingsError, match=r"^BYLINE_DRAIN_GRACE 'longer': "):
        load()


def test_lanes_need_memory_whichever_of_the_two_is_set() -> None:
    with pytest.raises(SettingsError, match="each lane takes 8 KiB, and hash_memory_kib is 31"):
        load(hash_memory_kib="31")
    assert load(hash_memory_kib="32").hash_parallelism == 4


def test_a_file_that_is_no_text_is_refused_in_one_line() -> None:
    Path(".env").write_bytes(b"BYLINE_WORKERS=\xff")
    with pytest.raises(SettingsError, match=r"^\.env: is not UTF-8$"):
        load()


@pytest.mark.parametrize("url", [f"{URL}?sslmode=secret", "mysql://ada:secret@localhost/byline"])
def test_a_password_shows_neither_in_a_refusal_nor_in_the_settings(url: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(database_url=url)
    assert "secret" not in str(refused.value)
    assert "secret" not in repr(load(database_url=URL))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:50051", Address("127.0.0.1", 50051)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:65535", Address("::1", 65535)),
    ],
)
def test_an_address_is_written_as_it_is_read(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


def test_settings_do_not_change() -> None:
    settings = load()
    with pytest.raises(ValidationError):
        settings.workers = 2  # type: ignore[misc] # the point


def test_the_pools_limit_counts_the_connection_of_the_health_check() -> None:
    assert load(pool_size="3", pool_overflow="2").pool_limit == 6


def test_traces_are_refused_where_what_they_stand_on_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(config, "distribution", missing)
    with pytest.raises(SettingsError, match="uv sync --extra otel"):
        load(otlp_endpoint="http://127.0.0.1:4317")
