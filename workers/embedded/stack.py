"""Starts every part a laptop lacks, under one supervisor: Redis, the KMS simulator, workers, beat.

servers = start_servers(supervisor, data_dir, broker=True, simulator=True)
# … migrate the database that `servers.environment` names …
start_workers(supervisor, servers.environment, ["worker-1", "worker-2"])
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workers.embedded.ports import LOOPBACK, free_port, is_open
from workers.embedded.redis import ServerDidNotStart, start_redis
from workers.embedded.simulator.client import SimulatorClient
from workers.embedded.supervisor import Child, Supervisor
from workers.kms.local.managed import create_managed_key_file
from workers.runtime.settings import Settings

SIMULATOR, BEAT, DASHBOARD = "kms-simulator", "beat", "dashboard"

READY_SECONDS = 60.0
"""How long a part may take to answer: importing everything it needs, on a machine that is busy with the others."""

LOOK_SECONDS = 0.05

WHOLE_LOG = 100_000
"""Lines of a worker's log that are searched: it may have begun to work before the search."""

STOP_SECONDS = 8.0
"""A worker that is asked to stop finishes its batch, not its slice; then it is killed, which costs nothing (R4)."""

SETTINGS = {
    "KEYREPACK_DATABASE_URL": "sqlite:///{folder}/keyrepack.db",
    "KEYREPACK_MANAGED_KEY_FILE": "{folder}/managed.key",
}
"""Where the parts of a data folder keep things, unless it was said otherwise."""


@dataclass(slots=True, kw_only=True)
class Servers:
    """The servers that answer, and the variables that point other processes to them."""

    environment: dict[str, str] = field(repr=False)  # R10: a URL may hold a password
    simulator: SimulatorClient | None = None
    dashboard: str = ""  # where a browser finds it


def start_servers(
    supervisor: Supervisor, data_dir: Path, *, given: Mapping[str, str], broker: bool, simulator: bool
) -> Servers:
    """Start Redis and the simulator where wanted, and make the managed key's file. `given` variables win.

    Raises NotConfigured, ServerDidNotStart.
    """
    folder = data_dir.resolve()
    environment = {name: text.format(folder=folder) for name, text in SETTINGS.items()} | dict(given)
    servers = Servers(environment=environment)
    if simulator:
        servers.simulator = _start_simulator(supervisor)
        environment.update(servers.simulator.environment)
        environment["NO_PROXY"] = environment["no_proxy"] = _without_proxy()
    if broker:
        environment["KEYREPACK_BROKER_URL"] = start_redis(supervisor, folder / "redis").url
        if "KEYREPACK_EVENT_SOURCES_FILE" not in environment:
            # A broker of our own, on loopback, for a trial: anyone who reaches it is believed.
            environment.setdefault("KEYREPACK_ALLOW_UNSIGNED_EVENTS", "true")
    key_file = Path(environment["KEYREPACK_MANAGED_KEY_FILE"])
    if not key_file.exists():
        create_managed_key_file(key_file)
    return servers


def start_workers(supervisor: Supervisor, environment: Mapping[str, str], names: Sequence[str]) -> None:
    """Start workers by name, and beat."""
    scratch = supervisor.log_dir.parent / "tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    own = {**environment, "TMPDIR": str(scratch)}  # a killed pool leaves its shared memory's files where it made them
    for name in names:
        argv = [*_program("workers.cli"), "worker", "--name", name]
        supervisor.start(Child(name=name, argv=argv, env=own, role="worker", stop_seconds=STOP_SECONDS))
    argv = [*_program("workers.cli"), "beat"]
    supervisor.start(Child(name=BEAT, argv=argv, env=own, role="worker", stop_seconds=STOP_SECONDS))


def start_dashboard(supervisor: Supervisor, servers: Servers) -> None:
    """Start the dashboard, on the port that was given or a free one, which it keeps when it is started again."""
    environment = servers.environment
    port = environment.setdefault("KEYREPACK_DASHBOARD_PORT", str(_dashboard_port()))
    servers.dashboard = environment.get("KEYREPACK_DASHBOARD_URL") or f"http://{LOOPBACK}:{port}"
    argv = [*_program("workers.cli"), "dashboard"]
    supervisor.start(Child(name=DASHBOARD, argv=argv, env=environment, role="dashboard", stop_seconds=STOP_SECONDS))


def _dashboard_port() -> int:
    """Return the usual port if it is free: a bookmark goes on holding."""
    usual = int(Settings.model_fields["dashboard_port"].default)
    return usual if not is_open(usual) else free_port()


def wait_for_dashboard(supervisor: Supervisor, servers: Servers) -> None:
    """Wait until the dashboard answers. Raises ServerDidNotStart."""
    port = int(servers.environment["KEYREPACK_DASHBOARD_PORT"])
    _wait(supervisor, DASHBOARD, lambda: is_open(port))


def start_program(supervisor: Supervisor, name: str, module: str, *arguments: str, env: Mapping[str, str]) -> int:
    """Start one of our own modules as a child that is not restarted; its pid."""
    argv = [*_program(module), *arguments]
    return supervisor.start(Child(name=name, argv=argv, env=env, restart=False, stop_seconds=STOP_SECONDS))


def wait_for_simulator(supervisor: Supervisor, client: SimulatorClient) -> None:
    """Wait until the simulator answers: it loads while other things are done. Raises ServerDidNotStart."""
    port = int(client.url.rpartition(":")[2])
    _wait(supervisor, SIMULATOR, lambda: is_open(port))


def wait_for_worker(supervisor: Supervisor, name: str) -> None:
    """Wait until a worker says that it is ready. Raises ServerDidNotStart."""
    _wait(supervisor, name, lambda: " ready." in supervisor.tail(name, WHOLE_LOG))


def _wait(supervisor: Supervisor, name: str, answers: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not answers():
        if time.monotonic() > deadline:
            raise ServerDidNotStart(
                f"{name} did not start.", supervisor.tail(name, 5), f"Look at {supervisor.log_file(name)}."
            )
        time.sleep(LOOK_SECONDS)


def _start_simulator(supervisor: Supervisor) -> SimulatorClient:
    """Start the simulator on a port that it keeps when it is started again; its keys live as long as its process."""
    port = free_port()
    argv = [*_program("workers.embedded.simulator"), "--port", str(port)]
    supervisor.start(Child(name=SIMULATOR, argv=argv, stop_seconds=STOP_SECONDS))
    return SimulatorClient(f"http://{LOOPBACK}:{port}")


def _program(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def _without_proxy() -> str:
    """Keep calls to the simulator on this machine, whatever proxy the environment names."""
    named = [host for host in os.environ.get("NO_PROXY", "").split(",") if host]
    return ",".join(dict.fromkeys([*named, LOOPBACK, "localhost"]))
