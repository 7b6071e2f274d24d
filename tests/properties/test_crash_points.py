"""A process is killed at every single transaction of a run, before and after it commits; a fresh one goes on."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from schemas.envelope import NONCE_BYTES
from schemas.keys import KEY_BYTES
from schemas.states import Mode, RepackState
from tests.engine import Door, Template, World, chain_of_keys, usual_tree
from tests.oracle import Oracle
from workers.store import models
from workers.store.repacks import Repack

BATCH = 3

KILLS = 40
"""Fewer commits than a run of this tree takes: a run that takes fewer has lost its checkpoints."""


class CopyingDoor(Door):
    """Copies the database at each commit: what a process leaves that is killed there, or before it commits again."""

    def __init__(self, world: World, folder: Path, spy: Spy) -> None:
        self._world, self._folder, self._spy = world, folder, spy
        self.copies = [self._copy()]

    def before_commit(self) -> None:
        """See Door.before_commit."""
        self.copies[-1].wraps = self._spy.wraps  # made, and lost where the process is killed now

    def committed(self) -> None:
        """See Door.committed."""
        self.copies.append(self._copy())

    def _copy(self) -> Copy:
        path = self._folder / f"{uuid4().hex}.db"
        with (
            contextlib.closing(sqlite3.connect(self._world.url.removeprefix("sqlite:///"))) as source,
            contextlib.closing(sqlite3.connect(path)) as target,
        ):
            source.backup(target)
        return Copy(path, self._spy.wraps)


@dataclass
class Copy:
    """A database at a kill, and how many wraps had been made by then."""

    path: Path
    wraps: int


class Spy:
    """A source of random bytes that counts how many wraps were made: a nonce each."""

    def __init__(self) -> None:
        self.wraps = 0

    def __call__(self, size: int) -> bytes:
        """Random bytes."""
        if size != KEY_BYTES:
            self.wraps += size // NONCE_BYTES
        return os.urandom(size)


def test_a_kill_at_any_transaction_costs_at_most_a_batch(template: Template, tmp_path: Path) -> None:
    """Wherever a process is killed, the next one finishes, no key is lost, and at most one batch is done again.

    A process that is killed after a commit, or before the next one, leaves the same database: one copy stands for both,
    with the wraps that the second of the two had made.
    """
    world, spy = template.world(batch_size=BATCH, shard_size=5), Spy()
    oracle = Oracle(world)
    environment = world.environment()
    usual_tree(world, environment, hours=2, jobs=4)
    chain_of_keys(world, environment, 3, jobs=1)
    oracle.check()
    repack = world.start(environment, "memory:b", Mode.DEEP)
    door = CopyingDoor(world, tmp_path, spy)
    assert world.run(repack, world.process(door=door, random=spy)).state == RepackState.FINISHED
    world.close()
    *killed, over = door.copies
    assert len(killed) > KILLS
    for copy in killed:
        go_on(template.world(source=copy.path, kms=world.kms, batch_size=BATCH, shard_size=5), repack, copy)
    assert over.wraps == spy.wraps


def go_on(world: World, repack: Repack, copy: Copy) -> None:
    """Let a fresh process finish what a killed one has left."""
    oracle, spy = Oracle(world), Spy()
    oracle.check()  # R1: at the very moment of the kill
    assert world.clock is not None
    world.clock.let_pass(31)  # the dead one's lease runs out, by the database's clock
    ended = world.run(repack, world.process(random=spy))
    assert ended.state == RepackState.FINISHED, ended
    oracle.check_ended(repack.environment, "memory:b", deep=True)
    # R4: what was wrapped and not kept is one batch at most.
    kept = sum(one["kind"] == "data" for one in oracle.effects())
    minted = sum(shard["minted"] for shard in world.rows(models.shards))
    rehung = sum(one["kind"] == "rehung" for one in oracle.effects())
    assert copy.wraps + spy.wraps <= kept + minted + rehung + BATCH, (copy, spy.wraps, kept, minted)
    world.close()
