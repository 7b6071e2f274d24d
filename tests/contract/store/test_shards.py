"""Leases, checkpoints and fences (R3, R4), by the database's own clock."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from schemas.ranges import END, Range
from schemas.states import Stage
from tests.engine import World, usual_tree
from tests.poll import poll
from workers.errors import LeaseLost
from workers.store import models
from workers.store.repacks import Repack
from workers.store.shards import (
    Shard,
    Tally,
    checkpoint,
    claim_shard,
    close_shards,
    count_unfinished,
    plan_shards,
    progress,
    release_shard,
)


@pytest.fixture
def repack(world: World) -> Repack:
    """A repack without shards but for those a test plans."""
    environment = world.environment()
    usual_tree(world, environment, hours=1)
    repack = world.start(environment)
    with world.main.database.write() as connection:
        close_shards(connection, repack.id)
    return repack


def plan(world: World, repack: Repack, count: int) -> None:
    """Plan some shards of ten keys."""
    ranges = [Range(after=(part, END), upto=(part + 1, END), expected=10) for part in range(count)]
    with world.main.database.write() as connection:
        plan_shards(connection, repack.id, Stage.RENEW, 1, ranges)


def claim(world: World, repack: Repack, *, lease: float = 30, owner: str = "me") -> Shard | None:
    """Claim one."""
    with world.main.database.write() as connection:
        return claim_shard(connection, repack.id, owner=owner, lease_seconds=lease)


def save(world: World, shard: Shard, cursor: int, *, done: bool = False, **counts: int) -> Shard:
    """Checkpoint one."""
    with world.main.database.write() as connection:
        return checkpoint(connection, shard, cursor=(cursor, END), tally=Tally(**counts), done=done, lease_seconds=30)


def test_no_shard_is_claimed_twice(world: World, repack: Repack) -> None:
    """However many workers claim at once, each shard is one worker's."""
    plan(world, repack, 40)
    claimed: list[int] = []
    barrier = threading.Barrier(4)

    def work(name: str) -> None:
        services = world.process()
        barrier.wait(10)
        while True:
            with services.database.write() as connection:
                shard = claim_shard(connection, repack.id, owner=name, lease_seconds=30)
            if shard is None:
                return
            claimed.append(shard.id)

    threads = [threading.Thread(target=work, args=(f"worker-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(claimed) == 40
    assert max(Counter(claimed).values()) == 1


def test_a_lease_runs_out_by_the_databases_clock(world: World, repack: Repack) -> None:
    """A shard whose worker is gone is another one's after the lease; what the first brings late is refused (R4)."""
    plan(world, repack, 1)
    first = claim(world, repack, lease=0.3, owner="gone")
    assert first is not None
    assert claim(world, repack) is None
    second = poll(lambda: claim(world, repack, owner="next"), 10, "the lease ran out")
    assert second is not None
    assert (second.id, second.token) == (first.id, first.token + 1)
    save(world, second, 1, seen=3, rewrapped=3)
    with pytest.raises(LeaseLost):
        save(world, first, 1, seen=5, rewrapped=5)
    row = next(row for row in world.rows(models.shards) if row["id"] == first.id)
    assert (row["seen"], row["rewrapped"], row["takeovers"], row["owner"]) == (3, 3, 1, "next")


def test_a_checkpoint_renews_the_lease_and_adds_up(world: World, repack: Repack) -> None:
    """Cursor and counts are kept together; the lease is counted from the last one."""
    plan(world, repack, 1)
    shard = claim(world, repack, lease=1)
    assert shard is not None
    before = world.rows(models.shards, models.shards.c.id == shard.id)[0]["lease_until"]
    for cursor in (1, 2):
        shard = save(world, shard, cursor, seen=4, rewrapped=2, already_current=1, quarantined=1, kms_calls=5)
    row = world.rows(models.shards, models.shards.c.id == shard.id)[0]
    assert (row["cursor_parent"], row["batches"]) == (2, 2)
    assert row["lease_until"] > before + 10
    with world.main.database.read() as connection:
        part = progress(connection, repack.id)[-1]
    assert (part.seen, part.rewrapped, part.already_current, part.quarantined, part.kms_calls) == (8, 4, 2, 2, 10)
    assert (part.shards, part.done, part.leased, part.expected) == (1, 0, 1, 10)


def test_a_released_shard_goes_on_from_its_cursor(world: World, repack: Repack) -> None:
    """One who makes room loses nothing; one who has lost his lease releases nothing."""
    plan(world, repack, 1)
    first = claim(world, repack)
    assert first is not None
    first = save(world, first, 5)
    with world.main.database.write() as connection:
        release_shard(connection, first)
    second = claim(world, repack)
    assert second is not None
    assert second.cursor == (5, END)
    with world.main.database.write() as connection:
        release_shard(connection, first)  # late
    assert claim(world, repack) is None


def test_a_done_shard_is_never_claimed_again(world: World, repack: Repack) -> None:
    """What has been walked stays walked; a checkpoint after the end is refused."""
    plan(world, repack, 1)
    shard = claim(world, repack, lease=0.01)
    assert shard is not None
    save(world, shard, 1, done=True)
    assert claim(world, repack) is None
    with pytest.raises(LeaseLost):
        save(world, shard, 1)
    with world.main.database.read() as connection:
        assert count_unfinished(connection, repack.id) == (0, 0)


def test_closing_fences_whoever_walks(world: World, repack: Repack) -> None:
    """After an abort or a stop the next checkpoint of every walker fails, and nothing can be claimed."""
    plan(world, repack, 2)
    shard = claim(world, repack)
    assert shard is not None
    with world.main.database.read() as connection:
        assert count_unfinished(connection, repack.id) == (2, 1)
    with world.main.database.write() as connection:
        close_shards(connection, repack.id)
    with pytest.raises(LeaseLost):
        save(world, shard, 1)
    assert claim(world, repack) is None
