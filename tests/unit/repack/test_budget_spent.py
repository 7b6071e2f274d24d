"""A budget of KMS calls that is spent holds work up, and says nothing about any key."""

from __future__ import annotations

from schemas.states import RepackState, Stage
from tests.engine import World, usual_tree
from workers.errors import Cause, KmsBudgetSpent
from workers.kms.rate_limit.budget import background, is_background
from workers.locks.restriction import restrict
from workers.main_keys.polling import Polled, poll_main_keys
from workers.repack.lifecycle import walk_slice
from workers.repack.time_slices import next_repack
from workers.store import main_keys, models


class Spent:
    """Lets so many calls through, then background ones no more. A hook of the KMS in memory."""

    def __init__(self, world: World, *operations: str, left: int = 0) -> None:
        self.left = left
        for operation in operations:
            world.kms.before(operation, self)

    async def __call__(self, operation: str, name: str) -> None:
        if is_background():
            self.left -= 1
            if self.left < 0:
                raise KmsBudgetSpent(main_key=f"memory:{name}", operation=operation)


def test_a_repack_is_left_where_it_is_and_not_blocked(world: World) -> None:
    """What was moved is committed, the rest waits for the repack's next turn, and nothing tells of a blocked key."""
    environment = world.environment()
    usual_tree(world, environment, hours=5)
    repack = world.start(environment)
    spent = Spent(world, "rewrap", left=3)
    with background():
        assert walk_slice(world.main, repack.id)
    assert world.look(repack).state == RepackState.MOVING
    assert sum(row["rewrapped"] for row in world.rows(models.shards)) == 3
    assert next_repack(world.main) == repack.id
    spent.left = 1000
    assert world.run(repack).state == RepackState.FINISHED
    assert sum(row["rewrapped"] for row in world.rows(models.shards, models.shards.c.stage == Stage.MOVE)) == 7


def test_where_calls_are_few_roots_are_minted_a_few_at_a_time(world: World) -> None:
    """A batch of 64 roots would never have its calls within a lease: at one call a second each is its own batch."""
    environment = world.environment()
    usual_tree(world, environment, hours=5)
    repack = world.start(environment)
    assert world.run(repack, world.process(kms_calls_per_second=1)).state == RepackState.FINISHED
    renewed = world.rows(models.shards, models.shards.c.stage == Stage.RENEW)
    assert sum(row["minted"] for row in renewed) == 5
    assert sum(row["batches"] for row in renewed) >= 10, "each was minted, and its keys rewrapped, by itself"


def test_a_look_that_was_not_made_is_put_off(world: World) -> None:
    """Not asked is not unanswered: since when a KMS gives no answer is told of those that were asked."""
    world.environment()
    Spent(world, "describe")
    poll_main_keys(world.main, most=0)
    with world.main.database.write() as connection:
        connection.execute(models.main_keys.update().values(next_look_at=0))
    with background():
        assert poll_main_keys(world.main) == Polled(put_off=1)
    with world.main.database.read() as connection:
        found = main_keys.find(connection, "memory:a")
    assert found is not None
    assert found.last_looked_at is None


def test_a_lock_waits_for_no_repacks_calls(world: World) -> None:
    """R8: a refusal is looked into at once, though whoever met it works in the background and the budget is spent."""
    environment = world.environment()
    usual_tree(world, environment)
    world.kms.set_state("a", Cause.DISABLED)
    Spent(world, "describe", "unwrap")
    with background():
        assert restrict(world.main, environment, cause=Cause.DISABLED, detail="")
