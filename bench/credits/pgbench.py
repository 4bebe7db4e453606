"""The same work by pgbench: PostgreSQL with a transaction for each transfer, and nothing around."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

from bench.credits.measurement import Measurement
from bench.measurement import BenchError, quantile
from bench.processes import cpu_seconds
from storage.embedded import binaries

if TYPE_CHECKING:
    from pathlib import Path

    from storage.embedded import Endpoint

SCRIPT = r"""
\set from random(1, :accounts)
\set to 1 + (:from - 1 + random(1, :accounts - 1)) % :accounts
\set low least(:from, :to)
\set high greatest(:from, :to)
BEGIN;
SELECT user_id, available FROM credit_accounts WHERE user_id IN (:low, :high)
  ORDER BY user_id FOR NO KEY UPDATE;
UPDATE credit_accounts SET available = available - 1, updated_at = statement_timestamp()
  WHERE user_id = :from;
UPDATE credit_accounts SET available = available + 1, updated_at = statement_timestamp()
  WHERE user_id = :to;
INSERT INTO ledger (kind, from_user_id, to_user_id, amount, memo)
  VALUES ('transfer', :from, :to, 1, '');
COMMIT;
"""
# Seconds: in less, not all clients of a busy machine have come to connect.
LEAST = 5
# The column of a log line that holds how long the transaction took, in microseconds.
LATENCY = 2


def measure(
    folder: Path, endpoint: Endpoint, *, accounts: int, clients: int, seconds: float
) -> Measurement:
    """Has pgbench make transfers among accounts, and returns what came of it.

    Args:
        folder: an empty one, for its files.
        endpoint: the database.
        accounts: how many there are, from the first on.
        clients: transactions under way at once.
        seconds: how long they are begun, in whole seconds.

    Raises:
        BenchError: when it fails.
    """
    script = folder / "transfer.sql"
    script.write_text(SCRIPT)
    command = [
        *(str(binaries() / "pgbench"), "--no-vacuum", "--protocol=prepared"),
        *(f"--file={script}", f"--define=accounts={accounts}", f"--client={clients}"),
        *(f"--time={max(LEAST, round(seconds))}", "--log", f"--log-prefix={folder / 'log'}"),
        endpoint.psql,
    ]
    before, began = cpu_seconds(endpoint.pid), os.times()
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a program of the wheel, no shell
    after, ended = cpu_seconds(endpoint.pid), os.times()
    if done.returncode:
        raise BenchError(f"pgbench failed:\n{done.stderr}")
    took = sorted(
        int(line.split()[LATENCY]) / 1e3
        for log in folder.glob("log.*")
        for line in log.read_text().splitlines()
    )
    failed = int(_printed(done.stdout, r"failed transactions: (\d+)"))
    return Measurement(
        transfers=len(took),
        # How long it ran but for connecting.
        seconds=len(took) / float(_printed(done.stdout, r"tps = ([\d.]+)")),
        p50=quantile(took, 0.5),
        p99=quantile(took, 0.99),
        errors={"FAILED": failed} if failed else {},
        server=0.0,
        database=after - before,
        load=sum(ended[2:4]) - sum(began[2:4]),
    )


def _printed(output: str, pattern: str) -> str:
    found = re.search(pattern, output)
    if found is None:
        raise BenchError(f"pgbench printed something else:\n{output}")
    return found[1]
