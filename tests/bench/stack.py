"""The real parts under one supervisor: Redis, the KMS simulator, a database, worker processes and beat."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from producers.publisher import KombuPublisher, publish_event
from schemas.events import Event
from tests.bench.seeding import seed_data_keys
from tests.servers import running_postgresql
from workers.compose import build_services
from workers.embedded.ports import free_port
from workers.embedded.redis import start_redis
from workers.embedded.simulator import SimulatorClient
from workers.embedded.stack import SIMULATOR, wait_for_simulator
from workers.embedded.supervisor import Child, Supervisor
from workers.keyring.keyring import Keyring
from workers.kms.local.managed import create_managed_key_file
from workers.runtime.settings import Settings
from workers.services import Services
from workers.store.environments import Environment
from workers.store.repacks import Repack, latest_repack
from workers.store.schema import migrate

LEASE_SECONDS = 10
SWEEP_SECONDS = 2
LOOK_SECONDS = 0.25
"""Between two looks at a repack: they cost what is measured, and the times are the database's own."""

PATIENCE_SECONDS = 1800
"""How long a repack may take before a bench gives up."""


@dataclass(slots=True, kw_only=True)
class Bench:
    """A running installation, and what a bench does with it."""

    folder: Path
    supervisor: Supervisor
    services: Services
    simulator: SimulatorClient
    publisher: KombuPublisher
    workers: list[str]
    database_url: str

    @property
    def keyring(self) -> Keyring:
        """A keyring that remembers no data key yet."""
        return Keyring(self.services)

    def seed(self, name: str, *, data_keys: int, roots: int) -> Environment:
        """An environment of the usual tree: connection keys, hourly keys, job data keys spread evenly."""
        keyring = self.keyring
        environment = keyring.create_environment("bench", name, actor="bench")
        reference = environment.environment_id
        keyring.create_data_keys(reference, None, 4)
        seed_data_keys(self.services, environment, keyring.create_wrapping_keys(reference, None, roots), data_keys)
        return environment

    def replace(self, environment: Environment, main_key: str) -> None:
        """Publish `main_key.replaced`, as another service would."""
        self._publish("main_key.replaced", environment.environment_id, main_key=main_key)

    def rotated(self, environment: Environment) -> None:
        """Publish `main_key.rotated`."""
        self._publish("main_key.rotated", environment.environment_id)

    def say(self, kind: str, environment: Environment) -> str:
        """Publish `main_key.revoked` or `main_key.restored`. Returns the event's id."""
        return self._publish(kind, environment.environment_id)

    def _publish(self, kind: str, environment: UUID, **data: str) -> str:
        event = Event(id=str(uuid4()), source="bench", type=kind, data={"environment": str(environment), **data})
        publish_event(self.publisher, event.to_bytes())
        return event.id

    def latest(self, environment: Environment) -> Repack | None:
        """The environment's newest repack."""
        with self.services.database.read() as connection:
            return latest_repack(connection, environment.id)

    def wait_for_end(self, environment: Environment, *, after: Repack | None) -> Repack:
        """The repack that follows `after`, once it has ended."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            repack = self.latest(environment)
            if repack is not None and (after is None or repack.id > after.id) and not repack.is_open:
                return repack
            time.sleep(LOOK_SECONDS)
        raise TimeoutError(f"The repack of {environment} did not end in {PATIENCE_SECONDS} s.")

    def kill_worker(self, name: str) -> None:
        """SIGKILL a worker and its children; the supervisor starts it again."""
        self.supervisor.kill(name, signal.SIGKILL)

    def worker_peak_mb(self) -> float:
        """The largest resident set that any worker process had, in MB: the kernel's own high-water mark."""
        peaks = [_peak_kb(pid) for name in self.workers for pid in _family(self.supervisor.pid(name))]
        return max(peaks, default=0) / 1024


def seconds_of(repack: Repack) -> float:
    """From its start to its end, by the database's clock."""
    assert repack.ended_at is not None
    return repack.ended_at - repack.created_at


@contextmanager
def running_bench(kind: str, *, workers: int = 2, extra: dict[str, str] | None = None) -> Iterator[Bench]:
    """Everything, on `sqlite` or `postgresql` with durable commits."""
    with (
        tempfile.TemporaryDirectory(prefix="keyrepack-bench-") as folder,
        _database_url(kind, Path(folder)) as url,
        ExitStack() as places,
        Supervisor(Path(folder) / "log") as supervisor,
    ):
        redis = start_redis(supervisor, Path(folder) / "redis")
        port = free_port()
        simulator = SimulatorClient(f"http://127.0.0.1:{port}")
        supervisor.start(
            Child(
                name=SIMULATOR,
                argv=[sys.executable, "-m", "workers.embedded.simulator", "--port", str(port)],
                env=dict(os.environ),
            )
        )
        key_file = Path(folder) / "managed.key"
        create_managed_key_file(key_file)
        variables = _variables(url, redis.url, key_file) | simulator.environment | (extra or {})
        places.enter_context(_environment(variables))
        services = build_services(Settings())
        migrate(services.database)
        names = [f"worker-{number + 1}" for number in range(workers)]
        for name in names:
            _start(supervisor, name, variables, "worker", "--name", name)
        _start(supervisor, "beat", variables, "beat")
        wait_for_simulator(supervisor, simulator)
        publisher = KombuPublisher(redis.url)
        publisher.declare()  # what is published before a worker is up waits for it
        try:
            yield Bench(
                folder=Path(folder),
                supervisor=supervisor,
                services=services,
                simulator=simulator,
                publisher=publisher,
                workers=names,
                database_url=url,
            )
        finally:
            publisher.close()
            services.close()


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """This process's environment for the length of a block: the next bench has settings of its own."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _database_url(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder}/keyrepack.db"
        return
    with running_postgresql(durable=True) as server:
        yield server.url(server.create_database())


def _variables(database_url: str, broker_url: str, key_file: Path) -> dict[str, str]:
    return {
        "KEYREPACK_DATABASE_URL": database_url,
        "KEYREPACK_BROKER_URL": broker_url,
        "KEYREPACK_MANAGED_KEY_FILE": str(key_file),
        "KEYREPACK_LEASE_SECONDS": str(LEASE_SECONDS),
        "KEYREPACK_SWEEP_SECONDS": str(SWEEP_SECONDS),
        "KEYREPACK_LOG_LEVEL": "warning",
        "KEYREPACK_REPLACEMENT_INTERVAL": "0",
        "KEYREPACK_ALLOW_UNSIGNED_EVENTS": "true",
    }


def _start(supervisor: Supervisor, name: str, variables: dict[str, str], *command: str) -> None:
    argv = [sys.executable, "-m", "workers.cli", *command]
    supervisor.start(Child(name=name, argv=argv, env={**os.environ, **variables}))


def _family(pid: int | None) -> list[int]:
    """A process and its children."""
    if pid is None:
        return []
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [pid, *(int(child) for child in children.read_text().split())] if children.exists() else [pid]


def _peak_kb(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)
