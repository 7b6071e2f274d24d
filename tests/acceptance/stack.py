"""The whole of keyrepack as real processes: a broker, the KMS simulator, workers and beat, on a database of its own.

Batches are tiny and leases short, so that a few thousand keys make many steps to interrupt, and nothing takes long.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text

from producers.publisher import KombuPublisher
from producers.topology import EVENTS, WORK_QUEUES
from schemas.events import Event
from schemas.states import RepackState, Stage
from tests.acceptance.brokers import Broker
from tests.poll import poll
from workers.compose import build_services
from workers.embedded.simulator import SimulatorClient
from workers.embedded.supervisor import Child, Supervisor
from workers.integrity.verify import verify_environment
from workers.keyring.keyring import Keyring
from workers.kms.local.managed import create_managed_key_file
from workers.runtime.settings import Settings
from workers.services import Services
from workers.store import inbox
from workers.store.audit import verify_chain
from workers.store.environments import Environment
from workers.store.models import inbox as inbox_rows
from workers.store.repacks import Repack, get_repack, latest_repack
from workers.store.schema import migrate
from workers.store.shards import LEASED, Progress, list_shards, progress

T = TypeVar("T")

BATCH, SHARD = 20, 200
LEASE_SECONDS = 2.0
SWEEP_SECONDS = 1.0
CANARY_SECONDS = 1.0
SLICE_SECONDS = 1.0
PATIENCE = 45.0
"""How long anything may take that works: a killed worker's lease, a sweep and the rest of a run, on a busy machine."""

WORKERS = ("w1", "w2")

ON_SQLITE = pytest.mark.parametrize("stacks", ["sqlite"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("stacks", ["postgresql"], indirect=True)
"""For a test in which neither database nor broker plays a part, or whose twin runs on the others: minutes are few."""

_LONG = pytest.mark.long
FIRST_ON_SQLITE = pytest.mark.parametrize("stacks", ["sqlite", pytest.param("postgresql", marks=_LONG)], indirect=True)
FIRST_ON_POSTGRESQL = pytest.mark.parametrize(
    "stacks", [pytest.param("sqlite", marks=_LONG), "postgresql"], indirect=True
)
"""For a test that every run makes on one stack, and the long tests on the other. Without a mark it is made on both."""

LOG_LINES, LOG_WIDTH = 40, 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeded:
    """An environment with a known number of keys."""

    environment: Environment
    roots: int
    wrapping_keys: int
    data_keys: int  # the ones below wrapping keys
    sample: dict[UUID, bytes]  # some data keys and their material

    @property
    def all_keys(self) -> int:
        """Data keys, roots among them, and wrapping keys."""
        return self.data_keys + self.wrapping_keys + self.connections

    @property
    def connections(self) -> int:
        """Data keys that are roots."""
        return self.roots - (self.wrapping_keys - self.nested)

    @property
    def nested(self) -> int:
        """Wrapping keys below wrapping keys."""
        return 1


class Stack:
    """Everything that runs, and what a test does to it. `close` leaves nothing behind."""

    def __init__(
        self,
        folder: Path,
        *,
        database_url: str,
        simulator: SimulatorClient,
        make_broker: Callable[[Supervisor, Path], Broker],
    ) -> None:
        self.folder, self.simulator = folder, simulator
        self.supervisor = Supervisor(folder / "log")
        self.broker: Broker
        self._make_broker = make_broker
        self._database_url = database_url
        self._marks: dict[Path, int] = {}

    # Starting and ending ----------------------------------------------------------------------------------------

    def open(self) -> Stack:
        """Start everything. A worker that is not ready yet finds its messages when it is."""
        self.supervisor.__enter__()
        try:
            self.broker = self._make_broker(self.supervisor, self.folder / "broker")
            key_file = self.folder / "managed.key"
            create_managed_key_file(key_file)
            self.settings = Settings(
                allow_unsigned_events=True,
                replacement_interval=0,
                database_url=self._database_url,
                broker_url=self.broker.url,
                managed_key_file=key_file,
                batch_size=BATCH,
                shard_size=SHARD,
                slice_seconds=SLICE_SECONDS,
                lease_seconds=LEASE_SECONDS,
                sweep_seconds=SWEEP_SECONDS,
                canary_seconds=CANARY_SECONDS,
                visibility_timeout=30,
                kms_probe_seconds=0.5,
                kms_probe_max_seconds=1.0,
                log_level="debug",
            )
            self.services: Services = build_services(self.settings)
            migrate(self.services.database)
            self.keyring = Keyring(self.services)
            self.publisher = KombuPublisher(self.broker.url)
            for name in WORKERS:
                self.start_worker(name)
            self.start_beat()
        except BaseException:
            self.supervisor.stop()
            raise
        return self

    def close(self) -> None:
        """Stop everything, whatever state it is in."""
        try:
            self.publisher.close()
            self.services.close()
        finally:
            self.supervisor.__exit__(None, None, None)

    def heal(self) -> None:
        """Before a test: all that another test killed runs again, no fault is left, and the logs begin here."""
        self.simulator.clear_faults()
        self.broker.start()
        for name in WORKERS:
            self.start_worker(name)
        self.start_beat()
        if "beat-2" in self.supervisor.running():
            self.supervisor.stop_child("beat-2")
        self._marks = {path: path.stat().st_size for path in (self.folder / "log").glob("*.log")}

    def start_worker(self, name: str) -> None:
        """Start a worker, unless it runs."""
        self._start(name, "worker", "--name", name)

    def start_beat(self, name: str = "beat") -> None:
        """Start a beat, unless it runs."""
        self._start(name, "beat")

    def start(self, name: str, *, env: dict[str, str]) -> None:
        """Start a worker or beat with more variables in its environment, unless it runs."""
        command = ("beat",) if name.startswith("beat") else ("worker", "--name", name)
        self._start(name, *command, env=env)

    def _start(self, name: str, *command: str, env: dict[str, str] | None = None) -> None:
        if name not in self.supervisor.running():
            argv, own = [sys.executable, "-m", "workers.cli", *command], self.variables() | (env or {})
            self.supervisor.start(Child(name=name, argv=argv, env=own, role="celery", restart=False))

    def variables(self) -> dict[str, str]:
        """The environment of its processes."""
        values = self.settings.model_dump(exclude_defaults=True) | {
            "database_url": self._database_url,
            "broker_url": self.broker.url,
        }
        own = {f"KEYREPACK_{name.upper()}": str(value) for name, value in values.items()}
        return {**os.environ, **own, **self.simulator.environment}

    # Doing ------------------------------------------------------------------------------------------------------

    def seed(
        self, *, main_key: str = "managed:", connections: int = 3, hourly: int = 6, data: int = 2400, nested: int = 40
    ) -> Seeded:
        """An environment: connection keys and hourly keys at the top, job keys below, and one wrapping key deeper."""
        environment = self.keyring.create_environment(uuid4().hex[:8], "production", main_key=main_key, actor="test")
        reference = environment.environment_id
        made = self.keyring.create_data_keys(reference, None, connections)
        parents = self.keyring.create_wrapping_keys(reference, None, hourly)
        for parent in parents:
            made += self.keyring.create_data_keys(reference, parent, data // hourly)[-5:]
        deeper = self.keyring.create_wrapping_key(reference, parents[0])
        made += self.keyring.create_data_keys(reference, deeper, nested)[-5:]
        return Seeded(
            environment=environment,
            roots=connections + hourly,
            wrapping_keys=hourly + 1,
            data_keys=data // hourly * hourly + nested,
            sample={one.key_id: one.material for one in made},
        )

    def publish(self, body: bytes, *, routing_key: str = "main_key.replaced") -> None:
        """Publish bytes to the exchange."""
        self.publisher.publish(body, routing_key=routing_key)

    def replace(self, environment: Environment, main_key: str, **fields: Any) -> Event:
        """Publish `main_key.replaced`, as another service would."""
        event = replaced(environment.environment_id, main_key, **fields)
        self.publish(event.to_bytes(), routing_key=event.type)
        return event

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Signal a process. SIGKILL reaches its whole group, and it is gone when this returns."""
        self.supervisor.kill(name, number, restart=False)
        if number == signal.SIGKILL:
            self.wait_until_gone(name)

    def wait_until_gone(self, *names: str) -> None:
        """Wait until processes have ended."""
        self.wait_for(lambda: not set(names) & set(self.supervisor.running()), PATIENCE, f"{names} have ended")

    def wait_until_ready(self, *names: str) -> None:
        """Wait until workers take messages: before, SIGTERM ends Python itself."""

        def are_ready() -> bool:
            said = self.logs()
            return all(" ready." in said.get(name, "") or "Task keyrepack" in said.get(name, "") for name in names)

        self.wait_for(are_ready, PATIENCE, f"{names} take messages")

    def catch(self, environment: Environment, *, between_transactions: bool = False) -> str:
        """Stop a worker (SIGSTOP) at a moment at which it holds a lease, some batches into a stage; its name.

        `between_transactions`: and at which it is in no transaction: what that holds, nobody else gets until it ends.
        """

        def look() -> str | None:
            return self._try_to_catch(environment, between_transactions=between_transactions)

        return self.wait_for(look, PATIENCE, "a worker with a lease in mid-run")

    def _try_to_catch(self, environment: Environment, *, between_transactions: bool) -> str | None:
        for shard in self._held(environment):
            name = self._worker_of(shard["owner"])
            leader = self.supervisor.pid(name) if name else None
            if name is None or leader is None:
                continue
            os.killpg(leader, signal.SIGSTOP)
            holds = any(self._worker_of(one["owner"]) == name for one in self._held(environment))
            if holds and not (between_transactions and self._is_write_locked()):
                return name
            os.killpg(leader, signal.SIGCONT)
        return None

    def _is_write_locked(self) -> bool:
        """Whether some other process is in a transaction that may hold what others need."""
        database = self.services.database
        if database.dialect == "postgresql":
            mine = "datname = current_database() and pid <> pg_backend_pid() and xact_start is not null"
            with database.read() as connection:
                return bool(
                    connection.execute(text(f"select count(*) from pg_stat_activity where {mine}")).scalar_one()
                )
        with contextlib.closing(
            sqlite3.connect(str(database.engine.url.database), timeout=0, isolation_level=None)
        ) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
        return False

    def _held(self, environment: Environment) -> list[dict[str, Any]]:
        """Shards of data keys under a lease, a few batches after their beginning."""
        repack = self.repack(environment)
        if repack is None or not repack.is_running:
            return []
        with self.services.database.read() as connection:
            rows = list_shards(connection, repack.id)
        return [row for row in rows if row["state"] == LEASED and row["stage"] == Stage.RENEW and row["seen"] > 0]

    def _worker_of(self, owner: str) -> str | None:
        """Which worker a pool process belongs to."""
        try:
            leader = os.getpgid(int(owner.split(":")[-2]))
        except ProcessLookupError:
            return None
        return next((name for name in WORKERS if self.supervisor.pid(name) == leader), None)

    def pool_process(self, name: str) -> int:
        """The pid of a worker's child, which does the work."""
        leader = self.supervisor.pid(name)
        return int(Path(f"/proc/{leader}/task/{leader}/children").read_text().split()[0])

    # Looking ----------------------------------------------------------------------------------------------------

    def wait_for(self, condition: Callable[[], T], deadline: float, what: str) -> T:
        """The first true value of a condition."""
        return poll(condition, deadline, what)

    def repack(self, environment: Environment) -> Repack | None:
        """An environment's newest repack."""
        with self.services.database.read() as connection:
            return latest_repack(connection, environment.id)

    def started(self, environment: Environment, *, seen: int = 1, after: Repack | None = None) -> Repack:
        """The repack after `after`, once its shards have counted so many keys."""

        def look() -> Repack | None:
            repack = self.repack(environment)
            if repack is None or (after and repack.id == after.id):
                return None
            return repack if sum(part.seen for part in self.progress(repack)) >= seen else None

        return self.wait_for(look, PATIENCE, f"{seen} keys seen")

    def in_state(self, repack: Repack, *states: RepackState) -> Repack:
        """A repack once it is in one of these states."""

        def look() -> Repack | None:
            with self.services.database.read() as connection:
                now = get_repack(connection, repack.id)
            return now if now.state in states else None

        return self.wait_for(look, PATIENCE, f"{' or '.join(states)}")

    def ended(self, environment: Environment, *, after: Repack | None = None) -> Repack:
        """An environment's newest repack, once it has ended."""

        def look() -> Repack | None:
            repack = self.repack(environment)
            return None if repack is None or repack.is_open or (after and repack.id == after.id) else repack

        return self.wait_for(look, PATIENCE, f"the repack of {environment} has ended")

    def progress(self, repack: Repack) -> list[Progress]:
        """A repack's sums by stage and level."""
        with self.services.database.read() as connection:
            return progress(connection, repack.id)

    def takeovers(self, repack: Repack) -> int:
        """How many leases ran out: each is one batch at most that was done twice (R4)."""
        return sum(part.takeovers for part in self.progress(repack))

    def settled(self, event: Event) -> dict[str, Any]:
        """What the inbox says of an event, once it has had its effect or was refused."""

        def look() -> dict[str, Any] | None:
            with self.services.database.read() as connection:
                row = connection.execute(select(inbox_rows).where(inbox_rows.c.event_id == event.id)).mappings().first()
            return dict(row) if row is not None and row["state"] != "received" else None

        return self.wait_for(look, PATIENCE, f"event {event.id} was settled")

    def rejected(self, event_id: str | None) -> list[dict[str, Any]]:
        """The rejected events with this id."""
        with self.services.database.read() as connection:
            return [row for row in inbox.list_rejected(connection) if row["event_id"] == event_id]

    def calls(self) -> Counter[str]:
        """Calls the simulator counted since it was last told to start from zero, by operation."""
        return Counter(self.simulator.calls()["by_operation"])

    def fresh_keyring(self) -> Keyring:
        """A keyring that remembers nothing."""
        self.services.cache.clear()
        return Keyring(self.services)

    def queued(self) -> int:
        """Messages that wait in any queue of ours."""
        return self.broker.waiting(EVENTS, *WORK_QUEUES)

    def logs(self, *, since_healed: bool = True) -> dict[str, str]:
        """What each process has said."""
        said: dict[str, str] = {}
        for path in sorted((self.folder / "log").glob("*.log")):
            text = path.read_bytes()[self._marks.get(path, 0) if since_healed else 0 :]
            said[path.stem] = text.decode(errors="replace")
        return said

    def log_lines(self, word: str) -> list[dict[str, Any]]:
        """What was logged under a word, by whichever process."""
        lines = (line for text in self.logs().values() for line in text.splitlines() if word in line)
        facts = [json.loads(line) for line in lines if line.startswith("{")]
        return [one for one in facts if one.get("event") == word]

    # The end state ----------------------------------------------------------------------------------------------

    def check_deep(self, seeded: Seeded, repack: Repack, *, takeovers: int = 0) -> None:
        """Whatever happened on the way: a deep repack ended, every key opens, and each was rewrapped once."""
        assert repack.state == RepackState.FINISHED
        parts = self.progress(repack)
        self._check_counts(parts)
        assert _sum(parts, Stage.MOVE, "rewrapped") == seeded.roots
        assert _sum(parts, Stage.RENEW, "minted") == seeded.wrapping_keys
        assert _sum(parts, Stage.RENEW, "rewrapped") == seeded.data_keys  # R2: one effect on each key
        assert _sum(parts, Stage.RENEW, "already_current") == 0
        assert _sum(parts, Stage.SHRED, "shredded") == seeded.wrapping_keys
        assert self.takeovers(repack) <= takeovers  # R4
        self.check_keys(seeded)

    def check_shallow(self, seeded: Seeded, repack: Repack) -> None:
        """A shallow repack ended, every key opens, and each root was rewrapped once."""
        assert repack.state == RepackState.FINISHED
        parts = self.progress(repack)
        self._check_counts(parts)
        assert _sum(parts, Stage.MOVE, "rewrapped") == seeded.roots
        assert {part.stage for part in parts} == {Stage.MOVE}
        self.check_keys(seeded)

    def check_keys(self, seeded: Seeded) -> None:
        """Every key opens to what it was born as, nothing is stale, and the audit chain is whole."""
        fresh = self.fresh_keyring()
        report = verify_environment(self.services, seeded.environment)
        assert (report.broken, report.named) == (0, []), report
        assert report.verified == seeded.all_keys
        assert (report.stale, report.draining) == (0, 0)
        assert {key: fresh.unwrap(key) for key in seeded.sample} == seeded.sample  # R1
        with self.services.database.read() as connection:
            verdict = verify_chain(connection)
        assert verdict.whole, verdict

    def _check_counts(self, parts: Sequence[Progress]) -> None:
        for part in parts:
            assert part.seen == part.rewrapped + part.already_current + part.quarantined  # R9
            assert part.quarantined == 0
            assert part.done == part.shards
            assert part.leased == 0


def replaced(environment: UUID, main_key: str, *, event_id: str | None = None, mode: str = "deep") -> Event:
    """An event `main_key.replaced`."""
    data = {"environment": str(environment), "main_key": main_key, "mode": mode}
    return Event(id=event_id or str(uuid4()), source="test", type="main_key.replaced", data=data)


def rotated(environment: UUID) -> Event:
    """An event `main_key.rotated`."""
    data = {"environment": str(environment)}
    return Event(id=str(uuid4()), source="test", type="main_key.rotated", data=data)


def _sum(parts: Sequence[Progress], stage: Stage, name: str) -> int:
    return sum(getattr(part, name) for part in parts if part.stage == stage)
