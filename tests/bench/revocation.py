"""Revocation: from `main_key.revoked` published to the last process that refuses, with a repack at work.

Once with Redis up, once with Redis stopped after publication: as soon as a worker has the event, and before its lock is
committed, so that the bell cannot ring. By SIGSTOP: it answers nobody, and closes no connection.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from sqlalchemy import func, select

from tests.bench.outcome import Outcome, console
from tests.bench.readers import Readers, running_readers
from tests.bench.spread import spread
from tests.bench.stack import Bench, running_bench
from tests.poll import poll
from workers.crypto.epochs import TICK_SECONDS
from workers.store.environments import Environment, get_environment, lock_environment
from workers.store.models import inbox, shards

READERS = 4
DATA_KEYS, ROOTS = 60_000, 20
"""Enough that a repack of them is under way when the next revocation comes."""

BOUNDS = {"redis": 1.0, "redis_stopped": 2.5}
"""Seconds that are promised."""

WARM_UP = 2
"""Rounds before those that count: every process has opened its connections by then."""

TAKEN_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Seconds after publication: the lock's commit, the last batch of the repack, the last reader's refusal."""

    locked: float
    last_batch: float
    last_refusal: float

    @property
    def last(self) -> float:
        """The last process, reader or worker, that refused."""
        return max(self.last_batch, self.last_refusal)


class _Scene:
    """One environment under a repack, and its readers."""

    def __init__(self, bench: Bench, environment: Environment, readers: Readers) -> None:
        self.bench, self.environment, self.readers = bench, environment, readers
        self._keys = [str(bench.simulator.create_main_key()) for _ in range(2)]

    def keep_moving(self) -> None:
        """Have a repack at work, a new one where the last has ended."""
        last = self.bench.latest(self.environment)
        if last is None or not last.is_open:
            target = next(key for key in self._keys if last is None or key != last.target_key)
            self.bench.replace(self.environment, target)

    def rounds(self, count: int, *, stop_redis: bool) -> list[Round]:
        """So many, after a few that do not count."""
        return [self.round(stop_redis=stop_redis) for _ in range(WARM_UP + count)][WARM_UP:]

    def round(self, *, stop_redis: bool) -> Round:
        """Revoke, wait until everybody refuses, restore, wait until everybody reads."""
        self.keep_moving()
        time.sleep(random.uniform(0, TICK_SECONDS))
        published = time.time()
        if stop_redis:
            with self._revoked_and_redis_stopped():
                refused = self.readers.await_refused(since=published)
        else:
            self.bench.say("main_key.revoked", self.environment)
            refused = self.readers.await_refused(since=published)
        with self.bench.services.database.read() as connection:
            locked = get_environment(connection, self.environment.id).locked_at
            batch = connection.execute(select(func.max(shards.c.checkpointed_at))).scalar_one()
        assert locked is not None
        restored = time.time()
        self.bench.say("main_key.restored", self.environment)
        self.readers.await_reading(since=restored)
        return Round(
            locked=locked - published, last_batch=(batch or published) - published, last_refusal=refused - published
        )

    @contextmanager
    def _revoked_and_redis_stopped(self) -> Iterator[None]:
        """Publish, and stop Redis between the event and its effect: the environment is held until then."""
        redis, database = self.bench.supervisor.pid("redis"), self.bench.services.database
        assert redis is not None
        with database.write() as connection:
            lock_environment(connection, self.environment.id)
            event_id = self.bench.say("main_key.revoked", self.environment)
            poll(lambda: self._is_taken(event_id), TAKEN_SECONDS, "a worker to take the event")
            os.kill(redis, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(redis, signal.SIGCONT)

    def _is_taken(self, event_id: str) -> bool:
        with self.bench.services.database.read() as connection:
            return connection.execute(select(inbox.c.id).where(inbox.c.event_id == event_id)).first() is not None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen."""
    parser.add_argument("--revocations", type=int, default=100, help="revocations with Redis up (100)")
    parser.add_argument("--revocations-stopped", type=int, default=15, help="revocations with Redis stopped (15)")


def measure(asked: argparse.Namespace) -> Outcome:
    """Two workers at a repack, four readers, PostgreSQL."""
    rounds: dict[str, list[Round]] = {}
    with running_bench("postgresql") as bench:
        environment = bench.seed("revocation", data_keys=DATA_KEYS, roots=ROOTS)
        with running_readers(bench, environment, READERS) as readers:
            scene = _Scene(bench, environment, readers)
            for name, count in (("redis", asked.revocations), ("redis_stopped", asked.revocations_stopped)):
                console.print(f"{count} revocations, {name.replace('_', ' ')}")
                rounds[name] = scene.rounds(count, stop_redis=name == "redis_stopped")
    figures = {name: _figures(found) for name, found in rounds.items()}
    missed = [
        f"{name.replace('_', ' ')}: {found['last']['p99']} s, promised within {BOUNDS[name]} s"
        for name, found in figures.items()
        if found["last"]["p99"] > BOUNDS[name]
    ]
    document = {"readers": READERS, "workers": 2, **figures}
    return Outcome(figures={"revocation": document}, table=_table(figures), missed=missed)


def _figures(rounds: list[Round]) -> dict[str, Any]:
    return {
        "revocations": len(rounds),
        **{name: spread([getattr(one, name) for one in rounds]) for name in ("locked", "last_refusal", "last")},
    }


def _table(figures: dict[str, Any]) -> Table:
    table = Table(title="Seconds from main_key.revoked published to …", caption="four readers, two workers at a repack")
    for column in ("", "revocations", "p50", "p99", "max"):
        table.add_column(column, justify="left" if not column else "right")
    for name, found in figures.items():
        for measured in ("locked", "last"):
            what = "the lock's commit" if measured == "locked" else "the last process that refuses"
            row = [f"{found[measured][column]:.3f}" for column in ("p50", "p99", "max")]
            table.add_row(f"{name.replace('_', ' ')}: {what}", str(found["revocations"]), *row)
    return table
