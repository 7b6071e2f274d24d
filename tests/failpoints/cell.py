"""One cell of the matrix: a small installation of its own, one failpoint armed in it, a story, and the judgement."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import redis
from sqlalchemy import update

from producers.publisher import KombuPublisher, publish_event
from schemas.events import Event
from schemas.keys import MainKeyUri
from schemas.states import Mode, RepackState
from tests.failpoints.worker import forks, operate, work
from tests.poll import poll
from workers.compose import build_services
from workers.integrity.invariants import check_invariants
from workers.kms.local.managed import rotate_managed_key_file
from workers.repack.lifecycle import start_repack, walk_slice
from workers.repack.starting import Request
from workers.runtime.failpoints import Action, Point
from workers.runtime.settings import Settings
from workers.store import models
from workers.store.environments import find_environment, get_environment, live_tops
from workers.store.repacks import Repack, get_repack, latest_repack
from workers.store.shards import progress

T = TypeVar("T")

LEASE_SECONDS = 0.7
DELAY_SECONDS = 1.1
"""Longer than a lease: what was delayed comes late, and somebody else has its shard."""

HANG_SECONDS = 1.3
"""How long a process may hang, past its lease, before it is killed: as a pool's time limit would, or its supervisor."""

PATIENCE = 100.0
WORKERS = ("w1", "w2")

SMALL = {
    "allow_unsigned_events": True,
    "replacement_interval": 0,
    "batch_size": 4,
    "shard_size": 8,
    "slice_seconds": 0.3,
    "lease_seconds": LEASE_SECONDS,
    "sweep_seconds": 0.3,
    "poll_interval": 60,
    "log_level": "info",
}


OWN: dict[Point, dict[str, object]] = {
    **{point: {"slice_seconds": 0.02} for point in (Point.SHARD_LEFT, Point.SLICE_ENDED)},
    **{point: {"poll_interval": 0.6} for point in (Point.POLL_CLAIMED, Point.POLL_LOOKED, Point.POLL_RECORDED)},
}
"""Where a slice has to end in the middle of a shard, or a main key is looked at all the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a cell is made from: a database that was copied for it, and a Redis database of its own."""

    database_url: str
    broker_url: str
    managed_key_file: Path
    environment: str
    targets: tuple[str, ...]  # uploaded main keys
    data_keys: int
    roots: int
    wrapping_keys: int


class Cell:
    """One failpoint, one action. `run` raises AssertionError where a promise is broken."""

    def __init__(self, point: Point, action: Action, ground: Ground, folder: Path) -> None:
        self.point, self.action, self.ground, self.folder = point, action, ground, folder
        self.marker = folder / "fired"
        managed = folder / "managed.key"
        shutil.copy2(ground.managed_key_file, managed)
        # No failpoint in here: this process judges. What it walks by hand it leaves in the middle.
        self.settings = Settings(
            database_url=ground.database_url,
            broker_url=ground.broker_url,
            managed_key_file=managed,
            **(SMALL | {"slice_seconds": 0.001}),
        )
        values: dict[str, object] = (
            SMALL
            | OWN.get(point, {})
            | {
                "database_url": ground.database_url,
                "broker_url": ground.broker_url,
                "managed_key_file": managed,
                "allow_failpoints": True,
                "failpoint": f"{point.value}={action.value}" + (f":{DELAY_SECONDS}" if action is Action.DELAY else ""),
                "failpoint_marker": self.marker,
            }
        )
        self.variables = {f"KEYREPACK_{name.upper()}": str(value) for name, value in values.items()}
        self.services = build_services(self.settings)
        self.publisher = KombuPublisher(ground.broker_url)
        self._crew: dict[str, BaseProcess] = {}
        self._has_ended = False
        with self.services.database.read() as connection:
            self.environment = find_environment(connection, ground.environment)

    def close(self) -> None:
        """End what runs."""
        for process in self._crew.values():
            process.kill()
            process.join()
        self.publisher.close()
        self.services.close()

    def run(self) -> None:
        """The story in which the point lies, and that it was reached."""
        with redis.Redis.from_url(self.ground.broker_url) as client:
            client.flushdb()
        self.publisher.declare()
        STORIES.get(self.point, be_replaced)(self)
        assert self.marker.exists(), f"{self.point.value} was not reached: {self.point.sentence}"
        self.services.cache.clear()
        verdicts = check_invariants(self.services, [self.environment])
        assert [(one.invariant, one.breaches) for one in verdicts if not one.held] == []

    # Acts ---------------------------------------------------------------------------------------------------------

    def start_workers(self) -> None:
        """Whichever dies is started again. Where one may hang or tarry, another is there to overtake it."""
        for name in WORKERS if self.action in (Action.HANG, Action.DELAY) else WORKERS[:1]:
            self._start(name)

    def operate(self, act: str, repack: Repack) -> None:
        """An operator's process, repeated until it has done its work."""

        def done() -> bool:
            process = forks.Process(
                target=operate, args=(self.variables, self.folder / "operator.log", act, repack.id), daemon=True
            )
            process.start()
            while process.exitcode is None:
                process.join(0.1)
                self._end_what_hangs()
            return process.exitcode == 0

        poll(done, PATIENCE, f"{act} was done")

    def publish(self, kind: str, **data: str) -> None:
        """Publish an event, twice: an at-least-once broker at work."""
        data = {"environment": str(self.environment.environment_id), **data}
        event = Event(id=str(uuid4()), source="test", type=kind, data=data)
        for _ in range(2):
            publish_event(self.publisher, event.to_bytes())

    def start_by_hand(self, target: str) -> Repack:
        """A repack that nobody walks yet."""
        with self.services.database.read() as connection:
            environment = get_environment(connection, self.environment.id)
        request = Request(environment=environment, target=MainKeyUri.parse(target), mode=Mode.DEEP, actor="test")
        return start_repack(self.services, request)

    # Looks --------------------------------------------------------------------------------------------------------

    def wait_for(self, condition: Callable[[], T], what: str) -> T:
        """The first true value of a condition, while workers that die are started again."""

        def look() -> T:
            self._end_what_hangs()
            for name, process in list(self._crew.items()):
                if process.exitcode is not None:
                    self._start(name)
            return condition()

        return poll(look, PATIENCE, what, every=0.1)

    def latest(self) -> Repack | None:
        """The newest repack."""
        with self.services.database.read() as connection:
            return latest_repack(connection, self.environment.id)

    def finished(self, *, after: Repack | None = None) -> Repack:
        """The newest repack, once it has finished."""

        def look() -> Repack | None:
            repack = self.latest()
            is_new = repack is not None and (after is None or repack.id > after.id)
            return repack if is_new and repack.state == RepackState.FINISHED else None

        return self.wait_for(look, "the repack has finished")

    def is_locked(self) -> bool:
        """Whether the environment is locked."""
        with self.services.database.read() as connection:
            return get_environment(connection, self.environment.id).lock_cause is not None

    def said(self) -> str:
        """The ends of the logs, and where each process stands."""
        for process in self._crew.values():
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGUSR1)  # see `faulthandler` in the worker
                process.join(0.2)
        return "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in sorted(self.folder.glob("*.log")))

    def _end_what_hangs(self) -> None:
        if self.action is not Action.HANG or self._has_ended or not self.marker.exists():
            return
        if time.time() > self.marker.stat().st_mtime + HANG_SECONDS:
            os.kill(int(self.marker.read_text()), signal.SIGKILL)
            self._has_ended = True

    def _start(self, name: str) -> None:
        process = forks.Process(target=work, args=(self.variables, self.folder / f"{name}.log"), daemon=True)
        process.start()
        self._crew[name] = process

    # The end state --------------------------------------------------------------------------------------------------

    def check_deep(self, repack: Repack) -> None:
        """R2, R9: each key was rewrapped once, under the new main key; the old one is needed for nothing."""
        with self.services.database.read() as connection:
            parts = progress(connection, repack.id)
            tops = live_tops(connection, self.environment.id)
        assert [top.main_key for top in tops] == [repack.target_key]
        counted = {name: sum(getattr(part, name) for part in parts) for name in ("rewrapped", "minted", "shredded")}
        ground = self.ground
        assert counted["rewrapped"] == ground.roots + ground.data_keys, counted
        assert counted["minted"] >= ground.wrapping_keys, counted
        assert counted["shredded"] >= ground.wrapping_keys, counted


# The stories ----------------------------------------------------------------------------------------------------------


def be_replaced(cell: Cell) -> None:
    """The main key is replaced, and the hierarchy repacked to the end."""
    cell.start_workers()
    cell.publish("main_key.replaced", main_key=cell.ground.targets[0])
    cell.check_deep(cell.finished())


def be_aborted(cell: Cell) -> None:
    """A repack is aborted in its move; the same replacement, asked for again, goes through."""
    repack = cell.start_by_hand(cell.ground.targets[0])
    cell.operate("abort", repack)
    cell.start_workers()
    cell.publish("main_key.replaced", main_key=cell.ground.targets[0])
    cell.check_deep(cell.finished(after=repack))


def be_stopped(cell: Cell) -> None:
    """A renewal is stopped where it stands; the next deep repack picks up what is left."""
    repack = cell.start_by_hand(cell.ground.targets[0])
    while not _is_renewing(cell, repack):
        walk_slice(cell.services, repack.id)
    cell.operate("stop", repack)
    cell.start_workers()
    cell.publish("main_key.replaced", main_key=cell.ground.targets[1])
    cell.finished(after=repack)


def be_revoked(cell: Cell) -> None:
    """The customer revokes in mid-run and gives back: the repack stops, and goes on by itself."""
    cell.start_workers()
    cell.publish("main_key.replaced", main_key=cell.ground.targets[0])
    cell.wait_for(cell.latest, "the repack has started")
    cell.publish("main_key.revoked")
    cell.wait_for(cell.is_locked, "the environment is locked")
    cell.publish("main_key.restored")
    cell.check_deep(cell.finished())


def be_rotated(cell: Cell) -> None:
    """The main key is rotated in its KMS: the poll sees it, and a shallow repack follows."""
    generation = rotate_managed_key_file(cell.folder / "managed.key")
    cell.start_workers()
    cell.wait_for(cell.marker.exists, "the point was reached")

    def is_moved() -> bool:
        with cell.services.database.write() as connection:  # a claim is held for two minutes: they are over
            connection.execute(update(models.main_keys).values(next_look_at=0.0))
        return cell.latest() is not None

    cell.wait_for(is_moved, "the rotation was followed")
    cell.finished()
    with cell.services.database.read() as connection:
        assert [top.generation for top in live_tops(connection, cell.environment.id)] == [generation]


def _is_renewing(cell: Cell, repack: Repack) -> bool:
    """Whether some data keys, and not all of them, are rewrapped."""
    with cell.services.database.read() as connection:
        state = get_repack(connection, repack.id).state
        seen = sum(part.rewrapped for part in progress(connection, repack.id))
    assert state in (RepackState.MOVING, RepackState.RENEWING)
    return state == RepackState.RENEWING and seen > cell.ground.roots


STORIES: dict[Point, Callable[[Cell], None]] = {
    Point.ABORT_WRITTEN: be_aborted,
    Point.STEER_COMMITTED: be_aborted,
    Point.STOP_WRITTEN: be_stopped,
    Point.LOCK_WRITTEN: be_revoked,
    Point.LOCK_COMMITTED: be_revoked,
    Point.POLL_CLAIMED: be_rotated,
    Point.POLL_LOOKED: be_rotated,
    Point.POLL_RECORDED: be_rotated,
}
"""Where a point does not lie on the way of every deep repack."""
