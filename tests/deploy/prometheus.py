"""A Prometheus that reads the metrics of a server as it would with the files of `deploy/`."""

from __future__ import annotations

import asyncio
import json
import math
import re
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from urllib.request import urlopen

from tests import servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FILES = Path(__file__).parents[2] / "deploy" / "prometheus"


class Prometheus:
    """A Prometheus that runs.

    Args:
        url: where its API is.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    async def has_data(self, query: str) -> bool:
        """Tells whether a query finds a number now."""
        found = await self._ask("query", query=query)
        return any(math.isfinite(float(each["value"][1])) for each in found["result"])

    async def alerts(self) -> dict[str, str]:
        """Returns the expressions of its alert rules, by name."""
        (group,) = (await self._ask("rules"))["groups"]
        return {each["name"]: each["query"] for each in group["rules"]}

    async def _ask(self, what: str, **arguments: str) -> Any:  # noqa: ANN401 - JSON
        url = f"{self._url}/api/v1/{what}?{urlencode(arguments)}"

        def answer() -> bytes:
            with urlopen(url) as response:  # noqa: S310 - http, on this machine
                body: bytes = response.read()
                return body

        return json.loads(await asyncio.to_thread(answer))["data"]


@asynccontextmanager
async def watching(address: str, folder: Path) -> AsyncIterator[Prometheus]:
    """Runs Prometheus, with the rules and the configuration of `deploy/`, while the block lasts.

    Args:
        address: where the server shows its metrics.
        folder: for its data.
    """
    for file in FILES.iterdir():
        # More often: a rate takes two looks.
        told = file.read_text().replace("byline:9464", address).replace(": 5s", ": 1s")
        (folder / file.name).write_text(told)
    log = folder / "log"
    command = [
        str(servers.programs("prometheus") / "prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]

    def address_if_ready() -> str | None:
        """Reads the log, in which either line may come first."""
        said = log.read_text()
        found = re.search(r'"Listening on" address=(\S+)', said)
        return found[1] if found and "ready to receive" in said else None

    with servers.process(command, log, lambda: address_if_ready() is not None):
        yield Prometheus(f"http://{address_if_ready()}")
