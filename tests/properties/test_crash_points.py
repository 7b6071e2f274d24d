"""A process is killed at every single transaction of a run, before and after it commits; a fresh one goes on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from schemas.envelope import NONCE_BYTES
from schemas.keys import KEY_BYTES
from schemas.states import Mode, RepackState
from tests.engine import Crash, CrashDoor, Door, Template, World, chain_of_keys, usual_tree
from tests.oracle import Oracle
from workers.repack.lifecycle import walk_slice
from workers.services import Services
from workers.store import models
from workers.store.repacks import Repack

BATCH = 3


class CountingDoor(Door):
    """Counts writes."""

    def __init__(self) -> None:
        self.writes = 0

    def enter(self, kind: str) -> None:
        """See Door.enter."""
        self.writes += kind == "write"


class Spy:
    """A source of random bytes that counts how many wraps were made: a nonce each."""

    def __init__(self) -> None:
        self.wraps = 0

    def __call__(self, size: int) -> bytes:
        """Random bytes."""
        if size != KEY_BYTES:
            self.wraps += size // NONCE_BYTES
        return os.urandom(size)


@contextlib.contextmanager
def a_world(template: Template) -> Iterator[tuple[World, Oracle, Repack]]:
    """The usual tree with a third level, and a deep repack that was just started."""
    world = template.world(batch_size=BATCH, shard_size=5)
    try:
        oracle = Oracle(world)
        environment = world.environment()
        usual_tree(world, environment, hours=2, jobs=4)
        chain_of_keys(world, environment, 3, jobs=1)
        oracle.check()
        yield world, oracle, world.start(environment, "memory:b", Mode.DEEP)
    finally:
        world.close()


def count_writes(template: Template) -> int:
    """How many transactions a run takes."""
    with a_world(template) as (world, _oracle, repack):
        door = CountingDoor()
        ended = world.run(repack, world.process(door=door))
        assert ended.state == RepackState.FINISHED
        return door.writes


def walk_until_killed(services: Services, repack: Repack) -> bool:
    """Whether the process was killed before the run was over."""
    try:
        while walk_slice(services, repack.id):
            pass
    except Crash:
        return True
    return False


@pytest.mark.parametrize("committed", [False, True], ids=["before_commit", "after_commit"])
def test_a_kill_at_any_transaction_costs_at_most_a_batch(template: Template, committed: bool) -> None:
    """Wherever a process is killed, the next one finishes, no key is lost, and at most one batch is done again."""
    for at in range(count_writes(template)):
        with a_world(template) as (world, oracle, repack):
            spies = Spy(), Spy()
            killed = world.process(door=CrashDoor(at, committed=committed), random=spies[0])
            assert walk_until_killed(killed, repack)
            oracle.check()  # R1: at the very moment of the kill
            world.clock.let_pass(31)  # the dead one's lease runs out, by the database's clock
            ended = world.run(repack, world.process(random=spies[1]))
            assert ended.state == RepackState.FINISHED, (at, ended)
            oracle.check_ended(repack.environment, "memory:b", deep=True)
            # R4: what was wrapped and not kept is one batch at most.
            kept = sum(one["kind"] == "data" for one in oracle.effects())
            minted = sum(shard["minted"] for shard in world.rows(models.shards))
            rehung = sum(one["kind"] == "rehung" for one in oracle.effects())
            made = spies[0].wraps + spies[1].wraps
            assert made <= kept + minted + rehung + BATCH, (at, made, kept, minted)
