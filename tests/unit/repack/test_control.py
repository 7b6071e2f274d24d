"""What may happen to a repack from outside, in every state it can be in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from schemas.errors import IllegalMove
from schemas.states import Mode, RepackState, Stage
from tests.corruption import flip_data_key, flip_root_wrap
from tests.engine import Actor, World, chain_of_keys, usual_tree
from tests.oracle import Oracle
from tests.steps import until
from workers.errors import AlreadyInForce, Cause, ProbeFailed, ProbeUnanswered, RepackConflict
from workers.keyring.keyring import Keyring
from workers.locks.restriction import unlock_if_restricted
from workers.repack.blocking import recheck
from workers.repack.control import abort, pause, resume, retry, stop
from workers.repack.lifecycle import advance, walk_slice
from workers.store import models
from workers.store.environments import Environment
from workers.store.repacks import Repack

Act = Callable[..., Repack]

S = RepackState


def moving(world: World, environment: Environment) -> Repack:
    """A repack in its move."""
    return world.start(environment)


def renewing(world: World, environment: Environment) -> Repack:
    """A repack whose move has closed."""
    return until(world, world.start(environment), Stage.RENEW)


def paused_moving(world: World, environment: Environment) -> Repack:
    """A repack that was paused in its move."""
    return pause(world.main, moving(world, environment), actor="test")


def paused_renewing(world: World, environment: Environment) -> Repack:
    """A repack that was paused in its renewal."""
    return pause(world.main, renewing(world, environment), actor="test")


def blocked_moving(world: World, environment: Environment) -> Repack:
    """A repack whose target is away in its move."""
    repack = moving(world, environment)
    world.kms.set_state("b", Cause.DISABLED)
    return world.run(repack)


def blocked_renewing(world: World, environment: Environment) -> Repack:
    """A repack whose target does not answer in its renewal."""
    repack = renewing(world, environment)
    world.kms.set_state("b", Cause.UNREACHABLE)
    return world.run(repack, world.process())


def finished(world: World, environment: Environment) -> Repack:
    """A repack that has ended well."""
    return world.repack(environment)


def aborted(world: World, environment: Environment) -> Repack:
    """A repack that was taken back."""
    return abort(world.main, moving(world, environment), actor="test")


def stopped(world: World, environment: Environment) -> Repack:
    """A repack whose renewal was ended early."""
    return stop(world.main, renewing(world, environment), actor="test")


def held_back_below(world: World, environment: Environment) -> Repack:
    """A repack that ended with a quarantined data key; its move has closed."""
    flip_data_key(world)
    return world.repack(environment)


def held_back_root(world: World, environment: Environment) -> Repack:
    """A repack that ended with a quarantined root; its move is open."""
    flip_root_wrap(world)
    return world.repack(environment)


TABLE: dict[Any, dict[Act, RepackState | type[Exception]]] = {
    moving: {pause: S.PAUSED, resume: S.MOVING, abort: S.ABORTED, stop: IllegalMove, retry: IllegalMove},
    renewing: {pause: S.PAUSED, resume: S.RENEWING, abort: IllegalMove, stop: S.STOPPED, retry: IllegalMove},
    paused_moving: {pause: IllegalMove, resume: S.MOVING, abort: S.ABORTED, stop: IllegalMove, retry: IllegalMove},
    paused_renewing: {pause: IllegalMove, resume: S.RENEWING, abort: IllegalMove, stop: S.STOPPED, retry: IllegalMove},
    blocked_moving: {pause: S.PAUSED, resume: S.MOVING, abort: S.ABORTED, stop: IllegalMove, retry: IllegalMove},
    blocked_renewing: {pause: S.PAUSED, resume: S.RENEWING, abort: IllegalMove, stop: S.STOPPED, retry: IllegalMove},
    finished: dict.fromkeys((pause, resume, abort, stop, retry), IllegalMove),
    aborted: {pause: IllegalMove, resume: IllegalMove, abort: S.ABORTED, stop: IllegalMove, retry: IllegalMove},
    stopped: {pause: IllegalMove, resume: IllegalMove, abort: IllegalMove, stop: S.STOPPED, retry: IllegalMove},
    held_back_below: dict.fromkeys((pause, resume, abort, stop), IllegalMove) | {retry: S.RENEWING},
    held_back_root: dict.fromkeys((pause, resume, stop), IllegalMove) | {abort: S.ABORTED, retry: S.MOVING},
}  # fmt: skip


@pytest.mark.parametrize("act", [pause, resume, abort, stop, retry], ids=lambda act: act.__name__)
@pytest.mark.parametrize("place", TABLE, ids=lambda place: place.__name__)
def test_every_act_in_every_state(world: World, place: Any, act: Act) -> None:
    """A legal act leads where the table says; an illegal one is refused with the state's name, and changes nothing."""
    environment = world.environment()
    usual_tree(world, environment)
    repack = place(world, environment)
    outcome, before = TABLE[place][act], world.dump()
    if isinstance(outcome, RepackState):
        assert act(world.main, repack, actor="operator", reason="test").state == outcome
    else:
        with pytest.raises(IllegalMove) as refused:
            act(world.main, repack, actor="operator", reason="test")
        assert repack.state.value in refused.value.why
        assert world.dump() == before


def test_pause_within_a_batch(world: World, oracle: Oracle) -> None:
    """A batch that was prepared when the pause came is not written; resumed, the work goes on where it was."""
    environment = world.environment()
    usual_tree(world, environment)
    repack = renewing(world, environment)
    worker = Actor(world, lambda services: walk_slice(services, repack.id))
    while not any(shard["state"] == "leased" and shard["minted"] for shard in world.rows(models.shards)):
        worker.step()
    pause(world.main, repack, actor="operator")
    before = world.rows(models.data_keys)
    worker.finish()
    assert worker.error is None
    assert world.rows(models.data_keys) == before
    assert world.look(repack).state == S.PAUSED
    assert not walk_slice(world.main, repack.id)  # a wake-up of a paused repack is a no-op
    resume(world.main, repack, actor="operator")
    assert world.run(repack).state == S.FINISHED
    oracle.check_ended(environment.id, "memory:b", deep=True)


def test_abort_with_the_new_key_deleted(world: World, oracle: Oracle) -> None:
    """R1: a new main key that is lost in mid-move costs nothing; keys created meanwhile open through the old one."""
    environment = world.environment()
    known = usual_tree(world, environment, hours=70)
    repack = world.start(environment)
    worker = Actor(world, lambda services: walk_slice(services, repack.id))
    while not any(shard["rewrapped"] for shard in world.rows(models.shards)):
        worker.step()
    late = world.keyring.create_data_key(environment.environment_id)
    world.kms.delete("b")
    worker.finish()
    blocked = world.look(repack)
    assert (blocked.state, blocked.block_side, blocked.block_cause) == (S.BLOCKED, "target", "deleted")
    oracle.check()
    assert abort(world.main, repack, actor="operator").state == S.ABORTED
    oracle.check_ended(environment.id, "memory:a", deep=False)
    fresh = Keyring(world.process())
    assert {key: fresh.unwrap(key) for key in known} == known
    assert fresh.unwrap(late.key_id) == late.material
    tops = {top["version"]: top["state"] for top in world.rows(models.top_versions)}
    assert tops == {1: "active", 2: "withdrawn"}
    newest = {wrap["key"]: wrap["top_version"] for wrap in world.rows(models.root_wraps)}
    assert set(newest.values()) == {1}
    assert {row["parent_version"] for row in world.rows(models.data_keys) if row["parent"] is None} == {1}


def test_a_stopped_renewal_is_picked_up(world: World, oracle: Oracle) -> None:
    """A renewal that was stopped leaves children of two versions; the next deep repack takes all of them along."""
    environment = world.environment()
    usual_tree(world, environment)
    chain_of_keys(world, environment, 3)
    repack = until(world, world.start(environment), Stage.RENEW, 2)
    stop(world.main, repack, actor="operator")
    oracle.check()
    assert any(row["state"] == "draining" for row in world.rows(models.wrapping_versions))
    assert world.repack(environment, "memory:c").state == S.FINISHED
    oracle.check_ended(environment.id, "memory:c", deep=True)


SIDES = [
    ("a", "source", Mode.DEEP),
    ("b", "target", Mode.DEEP),
    ("b", "target", Mode.SHALLOW),
]
CAUSES = [cause for cause in Cause if cause not in (Cause.UNSUPPORTED, Cause.DELETED)]


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.value)
@pytest.mark.parametrize(("name", "side", "mode"), SIDES)
def test_blocks_and_goes_on_by_itself(world: World, name: str, side: str, mode: Mode, cause: Cause) -> None:
    """A main key that is away parks the repack with side and cause; it looks again, later each time, and goes on."""
    assert world.clock is not None
    environment = world.environment()
    usual_tree(world, environment)
    repack = world.start(environment, "memory:b", mode)
    world.kms.set_state(name, cause)
    blocked = world.run(repack)
    assert (blocked.state, blocked.block_side, blocked.block_cause) == (S.BLOCKED, side, cause.value)
    assert f"memory:{name}" in (blocked.block_detail or "")
    waits = []
    for _ in range(9):
        before = world.look(repack)
        calls = dict(world.kms.calls)
        assert recheck(world.main, before) == before  # not yet: no call, no change
        assert world.kms.calls == calls
        waits.append((before.probe_at or 0) - world.clock.seconds)
        world.clock.let_pass(waits[-1] + 0.001)
        assert not walk_slice(world.main, repack.id)
    assert world.look(repack).state == S.BLOCKED
    assert waits == pytest.approx([5, 10, 20, 40, 80, 160, 300, 300, 300], abs=0.01)
    world.kms.set_state(name, None)
    world.clock.let_pass(301)
    assert world.run(repack).state == S.FINISHED
    told = [row["action"] for row in world.rows(models.audit)]
    assert told.count("repack.blocked") == told.count("repack.resumed") == 1


def test_a_block_says_what_holds_it_now(world: World) -> None:
    """What was silent turns out to be disabled, and then the other key's: each look says side and cause anew."""
    environment = world.environment()
    usual_tree(world, environment)
    repack = world.start(environment, "memory:b", Mode.DEEP)
    world.kms.set_state("b", Cause.UNREACHABLE)
    assert world.run(repack).block_cause == "unreachable"
    assert world.clock is not None
    for name, cause, side in (("b", Cause.DISABLED, "target"), ("a", Cause.DENIED, "source")):
        world.kms.set_state("b", None)
        world.kms.set_state(name, cause)
        world.clock.let_pass(60)
        assert not walk_slice(world.main, repack.id)
        blocked = world.look(repack)
        assert (blocked.state, blocked.block_side, blocked.block_cause) == (S.BLOCKED, side, cause.value)
        assert cause.value in (blocked.block_detail or "")


def test_blocked_in_renewal_by_the_new_key_alone(world: World) -> None:
    """Once the move has closed the old main key is needed for nothing; only the new one can block."""
    environment = world.environment()
    usual_tree(world, environment)
    repack = renewing(world, environment)
    world.kms.delete("a")
    world.kms.set_state("b", Cause.DENIED)
    blocked = world.run(repack, world.process())
    assert (blocked.state, blocked.block_side, blocked.block_cause) == (S.BLOCKED, "target", "denied")
    world.kms.set_state("b", None)
    assert unlock_if_restricted(world.main, environment)  # it was locked as well: no live main key opened anything
    assert world.clock is not None
    world.clock.let_pass(6)
    assert world.run(repack).state == S.FINISHED


def test_source_away_while_a_quarantined_root_keeps_the_move_open(world: World) -> None:
    """While the move is open new roots need both main keys: the old one away stays a block, without flapping."""
    assert world.clock is not None
    environment = world.environment()
    usual_tree(world, environment)
    flip_root_wrap(world)
    repack = until(world, world.start(environment), Stage.RENEW)
    assert repack.move_closed_at is None
    world.kms.set_state("a", Cause.DISABLED)
    services = world.process()
    assert world.run(repack, services).block_side == "source"
    for _ in range(4):
        world.clock.let_pass(301)
        walk_slice(services, repack.id)
    assert world.look(repack).state == S.BLOCKED
    told = [row["action"] for row in world.rows(models.audit)]
    assert told.count("repack.blocked") == 1
    world.kms.set_state("a", None)
    world.clock.let_pass(301)
    assert world.run(repack, services).state == S.FINISHED_WITH_QUARANTINE


def test_one_repack_at_a_time(world: World) -> None:
    """The same request again is the same repack; another one is refused, and changes nothing."""
    environment = world.environment()
    usual_tree(world, environment)
    repack = world.start(environment, "memory:b")
    before = world.dump()
    assert world.start(environment, "memory:b").repack_id == repack.repack_id
    for target, mode in (("memory:c", Mode.DEEP), ("memory:b", Mode.SHALLOW), (None, Mode.SHALLOW)):
        with pytest.raises(RepackConflict) as refused:
            world.start(environment, target, mode)
        assert refused.value.repack == repack.repack_id
    assert world.dump() == before


def test_a_key_in_force_is_not_moved_to(world: World) -> None:
    """A main key that is in force, at its generation, is refused; once the KMS has rotated it there is work."""
    environment = world.environment()
    usual_tree(world, environment)
    before = world.dump()
    for target in ("memory:a", None):
        with pytest.raises(AlreadyInForce):
            world.start(environment, target, Mode.SHALLOW)
    assert world.dump() == before
    generation = world.kms.rotate("a")
    repack = world.repack(environment, None, Mode.SHALLOW)
    assert repack.state == S.FINISHED
    assert {wrap["generation"] for wrap in world.rows(models.root_wraps)} == {generation}


@pytest.mark.parametrize(
    "cause", [cause for cause in Cause if cause != Cause.UNSUPPORTED], ids=lambda cause: cause.value
)
@pytest.mark.parametrize("name", ["a", "b"])
def test_a_bad_key_is_refused_early(world: World, name: str, cause: Cause) -> None:
    """R7: a main key that cannot be used is refused with its cause and remedy, and nothing at all is changed."""
    environment = world.environment()
    usual_tree(world, environment)
    world.kms._state(name)
    if cause is Cause.DELETED:
        world.kms.delete(name)
    else:
        world.kms.set_state(name, cause)
    before = world.dump()
    silent = cause in (Cause.UNREACHABLE, Cause.THROTTLED)  # refuses nothing: an event waits for it
    with pytest.raises(ProbeUnanswered if silent else ProbeFailed) as refused:
        world.start(environment, "memory:b")
    assert refused.value.code == f"main_key_{cause.value}"
    assert f"memory:{name}" in refused.value.why
    assert refused.value.remedy
    assert world.dump() == before


def test_advance_is_taken_once(world: World) -> None:
    """Two workers that both find a stage walked plan the next one once."""
    environment = world.environment()
    usual_tree(world, environment)
    repack = renewing(world, environment)
    shards = len(world.rows(models.shards))
    assert not advance(world.main, repack)
    assert len(world.rows(models.shards)) == shards


def test_a_stopped_renewal_goes_on_under_the_same_key(world: World) -> None:
    """A deep repack onto the main key in force is work, as long as versions drain from a renewal that was stopped."""
    environment = world.environment()
    usual_tree(world, environment)
    stopped(world, environment)
    assert world.repack(environment, "memory:b").state == S.FINISHED
