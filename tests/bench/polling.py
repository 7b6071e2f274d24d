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
from urllib.error import URLError

from pydantic import SecretStr
from rich.table import Table

from tests.bench.outcome import Outcome, console
from workers.compose import build_services
from workers.embedded.ports import free_port
from workers.embedded.processes import Child, Supervisor
from workers.embedded.simulator import SimulatorClient
from workers.services import Services
from workers.settings import Settings
from workers.store.environments import create_environment
from workers.store.models import main_keys
from workers.store.schema import migrate
from workers.watching import poll_main_keys

REGIONS = ("eu-west-1", "eu-central-1", "us-east-1", "us-west-2", "ap-south-1")
START_SECONDS = 30.0
UNBOUNDED = 100_000.0
"""Calls a second: more than the simulator answers, so that the pass itself is measured."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen."""
    parser.add_argument("--main-keys", type=int, default=10_000, help="main keys polled in one pass (10,000)")


def measure(asked: argparse.Namespace) -> Outcome:
    """In a process of its own, so that its peak memory is the pass's and no other bench's."""
    console.print(f"{asked.main_keys:,} main keys")
    argv = [sys.executable, "-m", "tests.bench.polling", str(asked.main_keys)]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE)
    found = json.loads(done.stdout.splitlines()[-1])
    table = Table("", "", title=f"One pass over {found['main_keys']:,} main keys, an environment each")
    for name in ("seconds", "calls", "calls_per_second", "peak_mb", "peak_mb_of_the_pass"):
        table.add_row(name.replace("_", " "), f"{found[name]:,}")
    missed = [] if found["usable"] == found["main_keys"] else [f"{found['usable']} were seen to be usable"]
    return Outcome(figures={"polling": found}, table=table, missed=missed)


def measure_polling(keys: int = 10_000, *, rate: float = UNBOUNDED) -> dict[str, Any]:
    """One pass over `keys` main keys, an environment each, by one process within `rate` calls a second."""
    with (
        tempfile.TemporaryDirectory(prefix="keyrepack-bench-") as folder,
        Supervisor(Path(folder) / "log") as supervisor,
    ):
        simulator = _start_simulator(supervisor)
        os.environ.update(simulator.environment)
        url = SecretStr(f"sqlite:///{folder}/keyrepack.db")
        services = build_services(Settings(database_url=url, poll_calls_per_second=rate))
        try:
            migrate(services.database)
            _seed(services, simulator, keys)
            return _measured(services, simulator, keys)
        finally:
            services.close()


def _start_simulator(supervisor: Supervisor) -> SimulatorClient:
    """A simulator in a process of its own: its memory is not the pass's."""
    port = free_port()
    argv = [sys.executable, "-m", "workers.embedded.simulator", "--port", str(port)]
    supervisor.start(Child(name="simulator", argv=argv, env=dict(os.environ)))
    simulator = SimulatorClient(f"http://127.0.0.1:{port}")
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            simulator.calls()
        except URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return simulator


def _seed(services: Services, simulator: SimulatorClient, keys: int) -> None:
    with ThreadPoolExecutor(8) as threads:
        uris = list(threads.map(lambda at: simulator.create_main_key(region=REGIONS[at % 5]), range(keys)))
    generations = {key["arn"]: key["generation"] for key in simulator.describe_keys()}
    with services.database.write() as connection:
        for number, uri in enumerate(uris):
            create_environment(
                connection, workspace="bench", name=str(number), main_key=str(uri), generation=generations[uri.name]
            )


def _measured(services: Services, simulator: SimulatorClient, keys: int) -> dict[str, Any]:
    poll_main_keys(services, most=0)  # takes them up
    with services.database.write() as connection:
        connection.execute(main_keys.update().values(next_look_at=0))
    simulator.clear_calls()
    before, started = _peak_mb(), time.monotonic()
    polled = poll_main_keys(services, most=keys)
    seconds = time.monotonic() - started
    return {
        "main_keys": keys,
        "usable": polled.usable,
        "seconds": round(seconds, 2),
        "calls": int(simulator.calls()["total"]),
        "calls_per_second": round(keys / seconds),
        "peak_mb": round(_peak_mb(), 1),
        "peak_mb_of_the_pass": round(_peak_mb() - before, 1),
    }


def _peak_mb() -> float:
    """The largest resident set of this process so far: the kernel's own high-water mark."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure_polling(int(sys.argv[1]))) + "\n")
