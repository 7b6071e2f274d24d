"""Turns: whoever has waited longest is next, and a worker makes room for those who wait."""

from __future__ import annotations

from schemas.states import RepackState, Stage
from tests.engine import World, usual_tree
from tests.steps import until
from workers.errors import Cause
from workers.locks import locking
from workers.repack.lifecycle import walk_slice
from workers.repack.time_slices import TimeSlice, next_repack
from workers.store import fair_queue, models, shards
from workers.store.environments import get_environment
from workers.store.repacks import Repack


def started(world: World, count: int, *, jobs: int = 4) -> list[Repack]:
    """So many environments, a repack in each, the first one asked for first."""
    assert world.clock is not None
    repacks = []
    for number in range(count):
        environment = world.environment(f"acme/{number}")
        usual_tree(world, environment, hours=1, jobs=jobs)
        world.clock.let_pass(1)
        repacks.append(world.start(environment))
    return repacks


def lease_all(world: World, repack: Repack) -> None:
    """Other workers hold every shard there is."""
    with world.main.database.write() as connection:
        while shards.claim_shard(connection, repack.id, owner="another", lease_seconds=30):
            pass


def test_each_gets_its_turn_before_any_gets_a_second(world: World) -> None:
    """Three repacks, six turns: in the order in which they were asked for, twice."""
    assert world.clock is not None
    repacks = started(world, 3)
    order = []
    for _ in range(6):
        world.clock.let_pass(1)
        order.append(next_repack(world.main))
    assert order == [repack.id for repack in repacks] * 2


def test_one_that_comes_later_waits_for_no_more_than_those_before_it(world: World) -> None:
    """A repack that was served since goes behind one that was asked for before that."""
    assert world.clock is not None
    first, second = started(world, 2)
    world.clock.let_pass(1)
    assert next_repack(world.main) == first.id
    world.clock.let_pass(1)
    third = world.start(world.environment("other/late"))
    order = []
    for _ in range(4):
        world.clock.let_pass(1)
        order.append(next_repack(world.main))
    assert order == [second.id, first.id, third.id, second.id]


def test_what_others_hold_has_no_turn_until_their_leases_end(world: World) -> None:
    """A worker is not sent to a repack where there is nothing for it to do."""
    assert world.clock is not None
    (repack,) = started(world, 1)
    lease_all(world, repack)
    assert next_repack(world.main) is None
    world.clock.let_pass(31)
    assert next_repack(world.main) == repack.id


def test_the_next_stage_is_work_as_well(world: World) -> None:
    """With every shard walked somebody has to take the next step."""
    (repack,) = started(world, 1)
    with world.main.database.write() as connection:
        connection.execute(models.shards.update().values(state=shards.DONE))
    assert next_repack(world.main) == repack.id


def test_blocked_paused_and_locked_have_no_turn(world: World) -> None:
    """A blocked one has it when its next look is due; one whose environment is locked has none, however it stands."""
    assert world.clock is not None
    (repack,) = started(world, 1)
    world.kms.set_state("b", Cause.DISABLED)
    assert world.run(repack).state == RepackState.BLOCKED
    assert next_repack(world.main) is None
    world.clock.let_pass(6)
    assert next_repack(world.main) == repack.id
    with world.main.database.read() as connection:
        environment = get_environment(connection, repack.environment)
    locking.revoke(world.main, [environment], actor="test")
    world.clock.let_pass(1000)
    assert next_repack(world.main) is None


def test_a_worker_stays_for_a_slice_where_nobody_waits(world: World) -> None:
    """Alone, a repack keeps its worker for the whole slice."""
    assert world.clock is not None
    (repack,) = started(world, 1)
    turn = TimeSlice(world.main, repack.id)
    for _ in range(19):
        world.clock.let_pass(1)
        assert not turn.is_over()
    world.clock.let_pass(1)
    assert turn.is_over()


def test_a_worker_makes_room_after_a_turn_where_others_wait(world: World) -> None:
    """With another one waiting a turn is over after `turn_seconds`; one that comes later is seen as soon."""
    assert world.clock is not None
    (repack,) = started(world, 1)
    turn = TimeSlice(world.main, repack.id)
    world.clock.let_pass(5)
    assert not turn.is_over()
    world.start(world.environment("other/late"))
    world.clock.let_pass(0.9)
    assert not turn.is_over(), "the database is asked once a second at most"
    world.clock.let_pass(0.1)
    assert turn.is_over()


def test_a_large_run_leaves_in_mid_shard_and_loses_nothing(world: World) -> None:
    """A batch a turn, while another one waits: it comes back to where it was, and every key is rewrapped once."""
    assert world.clock is not None
    (large,) = started(world, 1, jobs=40)
    services = world.process(batch_size=4)
    until(world, large, Stage.RENEW)
    world.start(world.environment("other/waits"))
    turns_taken = 0
    pages = services.pages

    class SlowPages:
        """Reading a page takes a second."""

        def __getattr__(self, name: str) -> object:
            if name == "read":
                world.clock.let_pass(1)  # type: ignore[union-attr]
            return getattr(pages, name)

    object.__setattr__(services, "pages", SlowPages())
    while world.look(large).is_running:
        walk_slice(services, large.id)
        turns_taken += 1
    assert turns_taken >= 10, "40 keys, 4 a batch, a batch a turn"
    rewrapped = sum(row["rewrapped"] for row in world.rows(models.shards, models.shards.c.stage == Stage.RENEW))
    assert rewrapped == 40


def test_who_waits_is_listed_in_the_order_of_turns(world: World) -> None:
    """So many and no more, each with the number of workers that it has work for."""
    repacks = started(world, 5)
    with world.main.database.read() as connection:
        waiting = fair_queue.list_waiting(connection, limit=3)
    assert [repack for repack, _ in waiting] == [repack.id for repack in repacks[:3]]
    assert all(workers == 2 for _, workers in waiting), "a shard of wrapping keys and one of data keys"


def test_where_somebody_walks_one_wake_up_more(world: World) -> None:
    """It makes up for a worker that died; more would only pile up."""
    (repack,) = started(world, 1)
    with world.main.database.write() as connection:
        assert shards.claim_shard(connection, repack.id, owner="another", lease_seconds=30)
    with world.main.database.read() as connection:
        assert fair_queue.list_waiting(connection, limit=10) == [(repack.id, 1)]
