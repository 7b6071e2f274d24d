"""The engine in a test: one database, one KMS in memory, and as many processes as a test starts and kills.

Everything is the product's own but the clock (time passes when a test says so; on SQLite the database's time too) and
the door in front of every transaction, at which a process can be held or killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import Connection, Engine, event

from schemas.keys import MainKeyUri
from schemas.states import Mode
from workers.broker.waker import Waker
from workers.compose import build_services
from workers.crypto.rewrap import RandomBytes
from workers.keyring.keyring import Keyring
from workers.kms.local.memory import MemoryKms
from workers.repack.lifecycle import start_repack, walk_slice
from workers.repack.starting import Request
from workers.runtime.settings import Settings
from workers.services import Services
from workers.store.database import Database
from workers.store.environments import Environment, get_environment
from workers.store.models import metadata
from workers.store.repacks import Repack, get_repack

SLICES = 5000
"""More slices than any test's repack needs: a run that takes more goes round in circles."""


class Crash(BaseException):
    """The process was killed: nothing of it runs on, not even what tidies up."""


class Clock:
    """Seconds that pass only when a test lets them."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0

    def __call__(self) -> float:
        return self.seconds

    def let_pass(self, seconds: float) -> None:
        """Time goes by."""
        self.seconds += seconds


class Door:
    """What every transaction of a process passes. This one is open."""

    def enter(self, kind: str) -> None:
        """Before a transaction begins; `kind` is read or write."""

    def before_commit(self) -> None:
        """All is written, nothing is durable."""

    def committed(self) -> None:
        """It is durable; the process does not know yet."""


class CrashDoor(Door):
    """Kills the process at its `at`-th write (from 0), before or after that commits."""

    def __init__(self, at: int, *, committed: bool) -> None:
        self._left, self._after, self._dead = at, committed, False

    def enter(self, kind: str) -> None:
        """See Door.enter."""
        if self._dead:
            raise Crash
        self._left -= kind == "write"

    def before_commit(self) -> None:
        """See Door.before_commit."""
        self._die(not self._after)

    def committed(self) -> None:
        """See Door.committed."""
        self._die(self._after)

    def _die(self, here: bool) -> None:
        if here and self._left < 0:
            self._dead = True
            raise Crash


class DooredDatabase(Database):
    """The product's database behind a door. On SQLite it keeps the test's time, and does not wait for the disk."""

    def __init__(self, url: str, door: Door, clock: Clock | None, engine: Engine | None) -> None:
        self._door = door
        if engine is not None:
            self.dialect, self.engine = engine.dialect.name, engine
            return
        super().__init__(url, pool_size=3)
        if self.dialect == "sqlite":
            event.listen(self.engine, "connect", lambda connection, _: _tune(connection, clock))

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """See Database.read."""
        self._door.enter("read")
        with super().read() as connection:
            yield connection

    @contextlib.contextmanager
    def autocommit_read(self) -> Iterator[Connection]:
        """See Database.autocommit_read."""
        self._door.enter("read")
        with super().autocommit_read() as connection:
            yield connection

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """See Database.snapshot."""
        self._door.enter("read")
        with super().snapshot() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """See Database.write."""
        self._door.enter("write")
        with super().write() as connection:
            yield connection
            self._door.before_commit()
        self._door.committed()


def _tune(connection: Any, clock: Clock | None) -> None:
    connection.execute("PRAGMA synchronous = OFF")
    if clock is not None:
        connection.create_function("julianday", 1, lambda _: clock.seconds / 86400.0 + 2440587.5)


@dataclass(slots=True, kw_only=True)
class World:
    """A database and a KMS, and the processes that work on them."""

    url: str
    kms: MemoryKms = field(default_factory=MemoryKms)
    clock: Clock | None = field(default_factory=Clock)
    settings: dict[str, Any] = field(default_factory=dict)
    engine: Engine | None = None  # shared by all processes: statements are compiled once
    alive: list[Services] = field(default_factory=list)
    _main: Services | None = None

    @property
    def main(self) -> Services:
        """The process a test works in itself."""
        if self._main is None:
            self._main = self.process()
        return self._main

    @property
    def keyring(self) -> Keyring:
        """A keyring that remembers nothing yet."""
        return Keyring(self.main)

    def process(
        self,
        *,
        door: Door | None = None,
        wake: Waker | None = None,
        random: RandomBytes = os.urandom,
        cache_clock: Callable[[], float] | None = None,
        **settings: Any,
    ) -> Services:
        """A new process with services of its own."""
        chosen = Settings(database_url=SecretStr(self.url), **({"replacement_interval": 0} | self.settings | settings))
        clock: dict[str, Any] = {} if self.clock is None else {"clock": self.clock}
        services = build_services(
            chosen,
            wake=wake,
            providers=[self.kms],
            database=DooredDatabase(self.url, door or Door(), self.clock, self.engine),
            cache_clock=cache_clock or self.clock or (lambda: 0.0),
            random=random,
            owner=f"process-{len(self.alive)}",
            **clock,
        )
        self.alive.append(services)
        return services

    def forget(self) -> None:
        """The process a test works in is replaced by a fresh one: nothing is cached."""
        self._main = None

    def close(self) -> None:
        """End every process."""
        for services in self.alive:
            services.loop.close()
            services.database.close()  # a shared engine begins anew
        self.alive.clear()
        self._main = None

    # The usual acts ----------------------------------------------------------------------------------------------

    def environment(self, name: str = "acme/production", main_key: str = "memory:a") -> Environment:
        """A new environment."""
        workspace, _, own = name.partition("/")
        return self.keyring.create_environment(workspace, own, main_key=main_key, actor="test")

    def start(
        self, environment: Environment, target: str | None = "memory:b", mode: Mode = Mode.DEEP, **by: Services
    ) -> Repack:
        """Start a repack."""
        with self.main.database.read() as connection:
            environment = get_environment(connection, environment.id)
        uri = MainKeyUri.parse(target) if target else None
        request = Request(environment=environment, target=uri, mode=mode, actor="test")
        return start_repack(by.get("services", self.main), request)

    def run(self, repack: Repack, services: Services | None = None) -> Repack:
        """Walk until there is nothing more to do for one who works alone."""
        for _ in range(SLICES):
            if not walk_slice(services or self.main, repack.id):
                return self.look(repack)
        raise AssertionError(f"{SLICES} slices and no end: {self.look(repack)}")

    def repack(self, environment: Environment, target: str | None = "memory:b", mode: Mode = Mode.DEEP) -> Repack:
        """Start a repack and run it to its end."""
        return self.run(self.start(environment, target, mode))

    def look(self, repack: Repack) -> Repack:
        """A repack as it is now."""
        with self.main.database.read() as connection:
            return get_repack(connection, repack.id)

    def rows(self, table: Any, *conditions: Any) -> list[dict[str, Any]]:
        """Return rows as stored, ordered by primary key: without ORDER BY a database returns any order."""
        with self.main.database.read() as connection:
            found = connection.execute(table.select().where(*conditions).order_by(*table.primary_key.columns))
            return [dict(row) for row in found.mappings()]

    def dump(self, *without: Any) -> dict[str, list[str]]:
        """Everything that is stored, but for the tables in `without`."""
        return {
            table.name: sorted(repr(sorted(row.items())) for row in self.rows(table))
            for table in metadata.sorted_tables
            if table not in without
        }


def usual_tree(world: World, environment: Environment, *, hours: int = 3, jobs: int = 4) -> dict[UUID, bytes]:
    """The usual tree: two connection keys, hourly keys, job keys below each. Returns the data keys' material."""
    keyring, name = world.keyring, environment.environment_id
    created = [keyring.create_data_key(name) for _ in range(2)]
    for hour in keyring.create_wrapping_keys(name, None, hours):
        created += keyring.create_data_keys(name, hour, jobs)
    return {one.key_id: one.material for one in created}


def chain_of_keys(world: World, environment: Environment, levels: int, *, jobs: int = 2) -> list[UUID]:
    """One wrapping key a level, each below the one before, each with data keys. Returns the wrapping keys."""
    parents: list[UUID] = []
    for _ in range(levels):
        parents.append(world.keyring.create_wrapping_key(environment.environment_id, parents[-1] if parents else None))
        world.keyring.create_data_keys(environment.environment_id, parents[-1], jobs)
    return parents


class Template:
    """An empty SQLite database with the schema, copied for one world after another, on one engine.

    Making the tables, and compiling the statements anew for each world, would take most of a property test's time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path, self._made = folder, folder / "template.db", 0
        self._clock = Clock()
        self._current = self._path
        self._database = Database(f"sqlite:///{self._path}")
        event.listen(self._database.engine, "do_connect", self._redirect)
        event.listen(self._database.engine, "connect", lambda connection, _: _tune(connection, self._clock))
        with self._database.write() as connection:
            metadata.create_all(connection)
        with self._database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.rollback()

    def world(self, *, source: Path | None = None, kms: MemoryKms | None = None, **settings: Any) -> World:
        """A new world, or one that goes on from the database `source`; the one before must be closed."""
        self._database.close()
        for old in self._folder.glob(f"{self._made}.db*"):
            old.unlink()
        self._made += 1
        self._current, self._clock = self._folder / f"{self._made}.db", Clock()
        shutil.copy(source or self._path, self._current)
        return World(
            url=f"sqlite:///{self._current}",
            kms=kms or MemoryKms(),
            clock=self._clock,
            settings=settings,
            engine=self._database.engine,
        )

    def _redirect(self, _dialect: Any, _record: Any, arguments: list[Any], _options: Any) -> None:
        arguments[0] = str(self._current)


class Actor(Door):
    """One process's job in a thread of its own, held at the door of every transaction until a test lets it in."""

    def __init__(self, world: World, job: Callable[[Services], Any], **settings: Any) -> None:
        self.outcome: Any = None
        self.error: Exception | None = None
        self.done = self.dead = False
        self.wrote = False  # whether the last door it went through was a write's
        self._kind, self._fate, self._go, self._held = "", "go", threading.Semaphore(0), threading.Semaphore(0)
        self.services = world.process(door=self, **settings)
        self._thread = threading.Thread(target=self._work, args=(job,), daemon=True)
        self._thread.start()
        self._await_door()

    def _work(self, job: Callable[[Services], Any]) -> None:
        try:
            self.outcome = job(self.services)
        except Crash:
            pass
        except Exception as error:
            self.error = error
        self.done = True
        self._held.release()

    def step(self, fate: str = "go") -> None:
        """Let it through one door. `fate`: go, or die here, before_commit or after_commit."""
        if not self.done:
            self._fate, self.wrote = fate, self._kind == "write"
            self._go.release()
            self._await_door()

    def finish(self) -> None:
        """Let it through every door to its end."""
        while not self.done:
            self.step()

    def kill(self) -> None:
        """End it where it is held."""
        self.step("die")
        self._thread.join(10)

    def _await_door(self) -> None:
        assert self._held.acquire(timeout=30), "The process neither came to a door nor ended."

    def enter(self, kind: str) -> None:
        """See Door.enter."""
        if threading.current_thread() is not self._thread:
            return
        self._die_if(self.dead)
        self._kind = kind
        self._held.release()
        self._go.acquire()
        self._die_if(self._fate == "die" or (kind == "read" and self._fate != "go"))

    def before_commit(self) -> None:
        """See Door.before_commit."""
        self._die_if(self._fate == "before_commit")

    def committed(self) -> None:
        """See Door.committed."""
        self._die_if(self._fate == "after_commit")

    def _die_if(self, condition: bool) -> None:
        if condition:
            self.dead = True
            raise Crash
