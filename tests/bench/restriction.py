"""Restriction: from a main key disabled in its KMS, without a word to anybody, to the last reader that is refused."""

from __future__ import annotations

import argparse
import time

from rich.table import Table

from tests.bench.outcome import Outcome, console
from tests.bench.readers import running_readers
from tests.bench.spread import spread
from tests.bench.stack import running_bench

READERS = 4
POLL_INTERVAL, CACHE_TTL = 4.0, 5.0
"""Short ones, so that it can be measured often; the promise is their sum."""

SHORT = {"KEYREPACK_POLL_INTERVAL": str(POLL_INTERVAL), "KEYREPACK_CACHE_TTL": str(CACHE_TTL)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen."""
    parser.add_argument("--restrictions", type=int, default=4, help="keys disabled and enabled again (4)")


def measure(asked: argparse.Namespace) -> Outcome:
    """Readers whose cache is filled all the while; then their key's owner disables it in the simulator."""
    refused, returned = [], []
    with running_bench("postgresql", extra=SHORT) as bench:
        key = bench.simulator.create_main_key()
        environment = bench.keyring.create_environment("bench", "restriction", main_key=str(key), actor="bench")
        with running_readers(bench, environment, READERS) as readers:
            console.print(f"{asked.restrictions} times disabled; looks every {POLL_INTERVAL} s, cache {CACHE_TTL} s")
            for _ in range(asked.restrictions):
                disabled = time.time()
                bench.simulator.set_state(key.name, "Disabled")
                refused.append(readers.await_refused(since=disabled) - disabled)
                enabled = time.time()
                bench.simulator.set_state(key.name, "Enabled")
                returned.append(readers.await_reading(since=enabled) - enabled)
    bound = POLL_INTERVAL + CACHE_TTL
    found = {
        "readers": READERS,
        "restrictions": asked.restrictions,
        "poll_interval": POLL_INTERVAL,
        "cache_ttl": CACHE_TTL,
        "bound": bound,
        "refused": spread(refused),
        "returned": spread(returned),
    }
    missed = [] if max(refused) <= bound else [f"noticed after {max(refused):.1f} s, promised within {bound} s"]
    return Outcome(figures={"restriction": found}, table=_table(refused, returned), missed=missed)


def _table(refused: list[float], returned: list[float]) -> Table:
    title = f"Seconds until the last of {READERS} readers hears (looks every {POLL_INTERVAL} s, cache {CACHE_TTL} s)"
    table = Table("", "p50", "max", title=title)
    for name, seconds in (("disabled in the KMS: refused", refused), ("enabled again: reads", returned)):
        found = spread(seconds)
        table.add_row(name, f"{found['p50']:.2f}", f"{found['max']:.2f}")
    return table
