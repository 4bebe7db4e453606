"""The config that gRPC's clients take: whole, and safe to retry by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service.config import Settings
from service.idempotency import REQUEST_ID_FIELD
from tests.clients import rpcs

CONFIG = json.loads(
    (Path(__file__).parents[2] / "deploy" / "client" / "service_config.json").read_text()
)
RPCS = {rpc.full_name: rpc for rpc in rpcs()}


def _methods() -> list[tuple[str, dict[str, Any]]]:
    """Each method that is named, and what is said of it."""
    return [
        (f"{name['service']}.{name['method']}", said)
        for said in CONFIG["methodConfig"]
        for name in said["name"]
    ]


def test_every_rpc_is_in_it_once() -> None:
    assert sorted(name for name, _ in _methods()) == sorted(RPCS)


@pytest.mark.parametrize("name", RPCS)
def test_a_call_waits_for_a_server_no_longer_than_the_server_would(name: str) -> None:
    said = dict(_methods())[name]
    longest: float = Settings.model_fields["max_deadline"].default
    assert 0 < float(said["timeout"].removesuffix("s")) <= longest
    # Nothing has been sent while it waits for one: this is safe for writes too.
    assert said["waitForReady"]


@pytest.mark.parametrize("name", RPCS)
def test_what_changes_nothing_is_tried_again_and_what_may_change_something_is_not(
    name: str,
) -> None:
    policy: dict[str, Any] = dict(_methods())[name].get("retryPolicy", {})
    if REQUEST_ID_FIELD in RPCS[name].input_type.fields_by_name:
        # A request id is optional, and without one a write that is sent twice is done twice.
        assert not policy
    else:
        assert policy.get("retryableStatusCodes") == ["UNAVAILABLE"]
