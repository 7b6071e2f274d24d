"""Polling: one pass over many main keys against the simulator: seconds, calls, peak memory."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from rich.table import Table

from tests.bench.outcome import Outcome, console
from workers.compose import build_services
from workers.embedded.ports import free_port
from workers.embedded.simulator import SimulatorClient
from workers.embedded.stack import SIMULATOR, wait_for_simulator
from workers.embedded.supervisor import Child, Supervisor
from workers.main_keys.polling import poll_main_keys
from workers.runtime.settings import Settings
from workers.store.environments import create_environment
from workers.store.models import main_keys
from workers.store.schema import migrate

REGIONS = ("eu-west-1", "eu-central-1", "us-east-1", "us-west-2", "ap-south-1")
BOUNDED_MB = 10.0
"""By how much the peak of a process may differ from one run to another."""

UNBOUNDED = 100_000.0
"""Calls a second: more than the simulator answers, so that the pass itself is measured."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen."""
    parser.add_argument("--main-keys", type=int, default=10_000, help="main keys polled in one pass (10,000)")


def measure(asked: argparse.Namespace) -> Outcome:
    """A pass over all of them, and one over a tenth: what memory it takes must not depend on how many there are."""
    console.print(f"{asked.main_keys:,} main keys")
    tenth = measure_polling(asked.main_keys // 10)
    found = measure_polling(asked.main_keys) | {"peak_mb_of_a_tenth": tenth["peak_mb"]}
    table = Table("", "", title=f"One pass over {found['main_keys']:,} main keys, an environment each")
    for name in ("seconds", "calls", "calls_per_second", "peak_mb", "peak_mb_of_a_tenth"):
        table.add_row(name.replace("_", " "), f"{found[name]:,}")
    missed = [] if found["usable"] == found["main_keys"] else [f"{found['usable']} were seen to be usable"]
    if found["peak_mb"] > tenth["peak_mb"] + BOUNDED_MB:
        missed.append(f"memory grows with the keys: {tenth['peak_mb']} MB for a tenth, {found['peak_mb']} MB for all")
    return Outcome(figures={"polling": found}, table=table, missed=missed)


def measure_polling(keys: int) -> dict[str, Any]:
    """One pass over `keys` main keys, an environment each. In a process of its own: its peak memory is the pass's."""
    with (
        tempfile.TemporaryDirectory(prefix="keyrepack-bench-") as folder,
        Supervisor(Path(folder) / "log") as supervisor,
    ):
        simulator, url = _start_simulator(supervisor), f"sqlite:///{folder}/keyrepack.db"
        _seed(url, simulator, keys)
        simulator.clear_calls()
        argv = [sys.executable, "-m", "tests.bench.polling", url, str(keys)]
        done = subprocess.run(
            argv, env={**os.environ, **simulator.environment}, check=True, stdout=subprocess.PIPE, text=True
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found | {"calls": int(simulator.calls()["total"])}


def _start_simulator(supervisor: Supervisor) -> SimulatorClient:
    """A simulator in a process of its own: its memory is not the pass's."""
    port = free_port()
    argv = [sys.executable, "-m", "workers.embedded.simulator", "--port", str(port)]
    supervisor.start(Child(name=SIMULATOR, argv=argv, env=dict(os.environ)))
    simulator = SimulatorClient(f"http://127.0.0.1:{port}")
    wait_for_simulator(supervisor, simulator)
    return simulator


def _seed(url: str, simulator: SimulatorClient, keys: int) -> None:
    """Environments on keys of their own, all of them due."""
    with ThreadPoolExecutor(8) as threads:
        uris = list(threads.map(lambda at: simulator.create_main_key(region=REGIONS[at % 5]), range(keys)))
    generations = {key["arn"]: key["generation"] for key in simulator.describe_keys()}
    services = build_services(Settings(database_url=SecretStr(url)))
    migrate(services.database)
    with services.database.write() as connection:
        for number, uri in enumerate(uris):
            create_environment(
                connection, workspace="bench", name=str(number), main_key=str(uri), generation=generations[uri.name]
            )
    poll_main_keys(services, most=0)  # takes them up
    with services.database.write() as connection:
        connection.execute(main_keys.update().values(next_look_at=0))
    services.close()


def _measured(url: str, keys: int) -> dict[str, Any]:
    services = build_services(Settings(database_url=SecretStr(url), poll_calls_per_second=UNBOUNDED))
    started = time.monotonic()
    polled = poll_main_keys(services, most=keys)
    seconds = time.monotonic() - started
    services.close()
    return {
        "main_keys": keys,
        "usable": polled.usable,
        "seconds": round(seconds, 2),
        "calls_per_second": round(keys / seconds),
        "peak_mb": round(_peak_mb(), 1),
    }


def _peak_mb() -> float:
    """The largest resident set of this process so far: the kernel's own high-water mark."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measured(sys.argv[1], int(sys.argv[2]))) + "\n")
