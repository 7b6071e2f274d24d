"""All parts as real processes under one supervisor, each of which may be killed and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import redis

from producers.publisher import KombuPublisher
from tests.servers import PostgresServer, running_postgresql
from workers.compose import build_services
from workers.embedded.orphan_guard import signal_group
from workers.embedded.ports import LOOPBACK, free_port
from workers.embedded.redis import RedisServer, start_redis
from workers.embedded.simulator import SimulatorClient
from workers.embedded.supervisor import Child, Supervisor
from workers.kms.local.managed import create_managed_key_file
from workers.runtime.settings import Settings
from workers.store.schema import migrate

WORKERS, BEAT, POSTGRESQL = ("worker-1", "worker-2"), "beat", "postgresql"

SMALL = {
    "allow_unsigned_events": True,
    "replacement_interval": 0,
    "batch_size": 40,
    "shard_size": 200,
    "slice_seconds": 2.0,
    "lease_seconds": 3.0,
    "sweep_seconds": 1.0,
    "visibility_timeout": 30,
    "kms_timeout_seconds": 3.0,
    "kms_probe_seconds": 0.5,
    "kms_probe_max_seconds": 2.0,
    "poll_interval": 3.0,
    "cache_ttl": 3.0,
    "log_level": "warning",
}
"""Everything is quick, so that minutes see what takes days: many batches, leases that run out, keys that are opened."""

READY_SECONDS = 60.0


class Installation:
    """What runs, and what may be done to it."""

    def __init__(
        self, folder: Path, supervisor: Supervisor, server: PostgresServer, simulator: SimulatorClient
    ) -> None:
        self.folder, self.supervisor, self.simulator = folder, supervisor, simulator
        self._server, self._postmaster = server, _postmaster_of(server)
        self.broker: RedisServer = start_redis(supervisor, folder / "redis")
        create_managed_key_file(folder / "managed.key")
        values = SMALL | {
            "database_url": server.url(server.create_database()),
            "broker_url": self.broker.url,
            "managed_key_file": folder / "managed.key",
        }
        self.variables = {f"KEYREPACK_{name.upper()}": str(value) for name, value in values.items()}
        os.environ.update(simulator.environment)
        self.services = build_services(Settings(**values))
        migrate(self.services.database)
        self.publisher = KombuPublisher(self.broker.url)

    def revive(self, *names: str) -> None:
        """Start what is down: these, or everything."""
        for name in names or (self.broker.name, *WORKERS, BEAT):
            if name in self.supervisor.running():
                continue
            if name == self.broker.name:
                with contextlib.suppress(ValueError):
                    start_redis(self.supervisor, self.folder / "redis", port=self.broker.port)
            else:
                command = ["beat"] if name == BEAT else ["worker", "--name", name, "--concurrency", "2"]
                self.start(name, "-m", "workers.cli", *command)

    def start(self, name: str, *arguments: str) -> None:
        """Start one of our own programs."""
        argv = [sys.executable, *arguments]
        env = {**os.environ, **self.variables}
        self.supervisor.start(Child(name=name, argv=argv, env=env, restart=False, role="ours"))

    def kill(self, name: str) -> None:
        """SIGKILL a process and its children, if it is up."""
        if name in self.supervisor.running():
            self.supervisor.kill(name, signal.SIGKILL, restart=False)

    def children_of(self, name: str) -> list[int]:
        """The pool processes of a worker."""
        pid = self.supervisor.pid(name) if name in self.supervisor.running() else None
        if pid is None:
            return []
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    # PostgreSQL ---------------------------------------------------------------------------------------------------

    def kill_postgresql(self) -> None:
        """SIGKILL of the server's first process: the others see it and end."""
        signal_group(_pid_of(self._server) or 0, signal.SIGKILL)

    def kill_backend(self) -> None:
        """SIGKILL of one connection's process: the server throws out everybody, and recovers."""
        pid = _pid_of(self._server)
        with contextlib.suppress(OSError, IndexError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            os.kill(int(children[-1]), signal.SIGKILL)

    def restart_postgresql(self) -> None:
        """Start it again on what its disk holds, as often as it takes: what shared its memory must have ended."""
        deadline = time.monotonic() + READY_SECONDS
        while not self.database_answers():
            if POSTGRESQL not in self.supervisor.running() and _pid_of(self._server) is None:
                self.supervisor.start(self._postmaster)
            if time.monotonic() > deadline:
                raise TimeoutError(f"PostgreSQL did not come back: {self.supervisor.tail(POSTGRESQL, 5)}")
            time.sleep(0.1)

    def database_answers(self) -> bool:
        """Whether it takes connections."""
        try:
            psycopg.connect(
                host=LOOPBACK, port=self._server.port, user="postgres", dbname="postgres", connect_timeout=2
            ).close()
        except psycopg.OperationalError:
            return False
        return True

    # Redis --------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """FLUSHALL."""
        with contextlib.suppress(redis.RedisError), redis.Redis.from_url(self.broker.url, socket_timeout=2) as client:
            client.flushall()

    def double_messages(self) -> int:
        """Put every message that waits into its queue once more; how many there were."""
        doubled = 0
        with contextlib.suppress(redis.RedisError), redis.Redis.from_url(self.broker.url, socket_timeout=2) as client:
            for key in client.scan_iter("keyrepack.*", _type="list"):
                messages = client.lrange(key, 0, 50)
                doubled += client.lpush(key, *messages) and len(messages) if messages else 0
        return doubled

    def close(self) -> None:
        """Let go of connections."""
        self.publisher.close()
        self.services.close()


@contextlib.contextmanager
def running_installation(folder: Path) -> Iterator[Installation]:
    """Everything, for the length of a block."""
    with running_postgresql(durable=True) as server, Supervisor(folder / "log") as supervisor:
        port = free_port()
        argv = [sys.executable, "-m", "workers.embedded.simulator", "--port", str(port)]
        supervisor.start(Child(name="simulator", argv=argv, restart=False))
        simulator = SimulatorClient(f"http://{LOOPBACK}:{port}")
        _wait_for(simulator)
        installation = Installation(folder, supervisor, server, simulator)
        try:
            installation.revive()
            yield installation
        finally:
            installation.close()


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Where logs and results go."""
    return tempfile.TemporaryDirectory(prefix="keyrepack-soak-", ignore_cleanup_errors=True)


def _wait_for(simulator: SimulatorClient) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            simulator.calls()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _postmaster_of(server: PostgresServer) -> Child:
    """How the running server was started, so that it can be again."""
    place = Path(f"/proc/{_pid_of(server)}")
    argv = place.joinpath("cmdline").read_bytes().rstrip(b"\0").decode().split("\0")
    pairs = place.joinpath("environ").read_bytes().rstrip(b"\0").decode().split("\0")
    return Child(
        name=POSTGRESQL,
        argv=argv,
        env=dict(pair.split("=", 1) for pair in pairs if "=" in pair),
        cwd=server.folder,
        user=place.stat().st_uid or None,
        restart=False,
        stop_signal=signal.SIGINT,
    )


def _pid_of(server: PostgresServer) -> int | None:
    """The server's first process, while it lives."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pid = int((server.folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
            return pid
    return None
