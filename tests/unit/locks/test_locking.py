"""Locks: by the customer's word and by the KMS, what they do to readers and repacks, and how they end."""

from __future__ import annotations

import pytest

from schemas.states import LockCause, Mode, RepackState, Stage
from tests.engine import Actor, World, usual_tree
from tests.steps import until
from workers.broker.waker import NullWaker
from workers.errors import Cause, EnvironmentLocked, KmsRefused, KmsUnreachable, RepackConflict
from workers.integrity.verify import verify_environment
from workers.keyring.keyring import Keyring
from workers.locks import locking
from workers.locks.restriction import restrict, unlock_if_restricted
from workers.repack import control
from workers.repack.lifecycle import walk_slice
from workers.store.audit import verify_chain
from workers.store.environments import Environment, find_environment
from workers.store.models import audit, outbox
from workers.store.repacks import Repack, get_repack


def lock_of(world: World, environment: Environment) -> str | None:
    """Why an environment is locked."""
    with world.main.database.read() as connection:
        return find_environment(connection, environment.environment_id).lock_cause


def revoke(world: World, *environments: Environment) -> list[Environment]:
    """The customer withdraws access."""
    return locking.revoke(world.main, list(environments), actor="customer", reason="offboarding")


def restore(world: World, *environments: Environment) -> list[Environment]:
    """The customer gives access back."""
    return locking.restore(world.main, list(environments), actor="customer")


def test_a_revoked_environment_opens_nothing_cached_or_not(world: World) -> None:
    """R8: after a revocation neither a cached key nor an uncached one is served, by the very keyring that cached it."""
    environment = world.environment()
    keys = usual_tree(world, environment)
    keyring = Keyring(world.main)
    cached, other = list(keys)[:2]
    assert keyring.unwrap(cached) == keys[cached]
    revoke(world, environment)
    for key in (cached, other):
        with pytest.raises(EnvironmentLocked) as caught:
            keyring.unwrap(key)
        assert caught.value.cause == LockCause.REVOKED


def test_nothing_is_created_in_a_revoked_environment(world: World) -> None:
    """R8: a locked environment takes no new keys, and no replacement."""
    environment = world.environment()
    parent = world.keyring.create_wrapping_key(environment.environment_id)
    revoke(world, environment)
    with pytest.raises(EnvironmentLocked):
        world.keyring.create_data_key(environment.environment_id, parent)
    with pytest.raises(EnvironmentLocked):
        world.keyring.create_wrapping_key(environment.environment_id)
    with pytest.raises(EnvironmentLocked):
        world.start(environment)


def test_what_was_given_back_opens_again(world: World) -> None:
    """A restored environment serves every key again, and its epoch never goes down."""
    environment = world.environment()
    keys = usual_tree(world, environment)
    keyring = Keyring(world.main)
    revoke(world, environment)
    assert [one.id for one in restore(world, environment)] == [environment.id]
    assert {key: keyring.unwrap(key) for key in keys} == keys
    with world.main.database.read() as connection:
        assert find_environment(connection, environment.environment_id).epoch == environment.epoch + 2


def test_a_revocation_is_told_once(world: World) -> None:
    """R2, R11: the same word twice is one lock, one audit record and one event."""
    environment = world.environment()
    assert revoke(world, environment)
    assert not revoke(world, environment)
    assert len(world.rows(audit, audit.c.action == "environment.locked")) == 1
    assert len(world.rows(outbox, outbox.c.type == "environment.locked")) == 1
    with world.main.database.read() as connection:
        assert verify_chain(connection).whole


def test_a_workspace_is_revoked_whole_or_not_at_all(world: World) -> None:
    """All environments of a workspace lock in one transaction: a failure in it locks none."""
    environments = [world.environment(f"acme/{name}") for name in ("production", "staging")]

    def fail(_connection: object) -> None:
        raise RuntimeError("the inbox is away")

    with pytest.raises(RuntimeError):
        locking.revoke_workspace(world.main, "acme", actor="customer", in_transaction=fail)
    assert [lock_of(world, one) for one in environments] == [None, None]
    assert lock_of(world, world.environment("acme/new")) is None
    assert len(locking.revoke_workspace(world.main, "acme", actor="customer")) == 3
    assert [lock_of(world, one) for one in environments] == [LockCause.REVOKED, LockCause.REVOKED]


def test_what_is_created_in_a_revoked_workspace_is_born_locked(world: World) -> None:
    """R8: it takes no key until the workspace is restored, and is told as locked; other workspaces' are not."""
    world.environment("acme/production")
    locking.revoke_workspace(world.main, "acme", actor="customer", reason="offboarding")
    newborn, other = world.environment("acme/staging"), world.environment("other/staging")
    assert (newborn.lock_cause, newborn.lock_detail, newborn.epoch) == (LockCause.REVOKED, "offboarding", 1)
    assert other.lock_cause is None
    with pytest.raises(EnvironmentLocked):
        world.keyring.create_data_key(newborn.environment_id)
    assert len(world.rows(outbox, outbox.c.type == "environment.locked")) == 2
    locking.restore_workspace(world.main, "acme", actor="customer")
    key = world.keyring.create_data_key(newborn.environment_id)
    assert Keyring(world.process()).unwrap(key.key_id) == key.material
    assert lock_of(world, world.environment("acme/new")) is None


def test_one_environment_is_given_back_while_its_workspace_stays_revoked(world: World) -> None:
    """The customer's word on one environment holds for it; what is created there is still born locked."""
    first = world.environment("acme/production")
    locking.revoke_workspace(world.main, "acme", actor="customer")
    restore(world, first)
    assert lock_of(world, first) is None
    assert world.environment("acme/staging").lock_cause == LockCause.REVOKED


def test_a_workspaces_revocation_and_return_are_audited_once(world: World) -> None:
    """R2, R11: the same word twice is one record, with the environments that it locked."""
    environment = world.environment("acme/production")
    for turn in (locking.revoke_workspace, locking.restore_workspace):
        assert [one.id for one in turn(world.main, "acme", actor="customer")] == [environment.id]
        assert turn(world.main, "acme", actor="customer") == []
    records = [row for row in world.rows(audit) if row["action"].startswith("workspace.")]
    assert [row["action"] for row in records] == ["workspace.revoked", "workspace.restored"]
    assert all(str(environment.environment_id) in row["facts"] for row in records)
    with world.main.database.read() as connection:
        assert verify_chain(connection).whole


def started(world: World, environment: Environment, *, steps: int) -> Repack:
    """A deep repack, so many transactions on; then its worker dies, and its lease runs out."""
    repack = world.start(environment)
    actor = Actor(world, lambda services: walk_slice(services, repack.id))
    for _ in range(steps):
        actor.step()
    actor.kill()
    assert world.clock is not None
    world.clock.let_pass(31)
    return world.look(repack)


@pytest.mark.parametrize("steps", [0, 5, 12, 25])
def test_a_running_repack_is_parked_and_goes_on_by_itself(world: World, steps: int) -> None:
    """R8: wherever a repack is, a revocation parks it with its reason; given back, it goes on and loses nothing."""
    environment = world.environment()
    keys = usual_tree(world, environment)
    repack = started(world, environment, steps=steps)
    revoke(world, environment)
    parked = world.look(repack)
    assert (parked.state, parked.block_side, parked.block_cause) == (
        RepackState.BLOCKED,
        "environment",
        LockCause.REVOKED,
    )
    seen = world.dump(audit)
    assert not walk_slice(world.main, repack.id)
    assert world.dump(audit) == seen
    restore(world, environment)
    assert world.look(repack).is_running
    assert world.run(repack).state == RepackState.FINISHED
    assert {key: Keyring(world.main).unwrap(key) for key in keys} == keys


def test_a_workspace_revoked_in_mid_run_parks_every_run(world: World) -> None:
    """Each goes on by itself with the workspace's return, from wherever it was, and loses nothing."""
    environments = [world.environment(f"acme/{name}") for name in ("production", "staging")]
    keys = [usual_tree(world, environment) for environment in environments]
    repacks = [
        started(world, environment, steps=steps) for environment, steps in zip(environments, (5, 25), strict=True)
    ]
    locking.revoke_workspace(world.main, "acme", actor="customer")
    assert [world.look(repack).block_side for repack in repacks] == ["environment", "environment"]
    locking.restore_workspace(world.main, "acme", actor="customer")
    assert [world.run(repack).state for repack in repacks] == [RepackState.FINISHED] * 2
    for known in keys:
        assert {key: Keyring(world.main).unwrap(key) for key in known} == known


def test_a_replacement_asked_for_while_parked_is_allowed_after_an_abort(world: World) -> None:
    """Parked by its new main key: another replacement conflicts until this one is aborted; then it goes all the way."""
    environment = world.environment()
    keys = usual_tree(world, environment)
    repack = world.start(environment, "memory:b")
    world.kms.set_state("b", Cause.DISABLED)
    assert world.run(repack).state == RepackState.BLOCKED
    with pytest.raises(RepackConflict):
        world.start(environment, "memory:c")
    control.abort(world.main, world.look(repack), actor="operator")
    assert world.repack(environment, "memory:c").state == RepackState.FINISHED
    assert {key: Keyring(world.process()).unwrap(key) for key in keys} == keys


def test_a_replacement_asked_for_while_revoked_waits_for_the_return(world: World) -> None:
    """A locked environment takes no replacement, not even after an abort; given back, it does."""
    environment = world.environment()
    usual_tree(world, environment)
    repack = world.start(environment, "memory:b")
    revoke(world, environment)
    for _ in range(2):
        with pytest.raises(EnvironmentLocked):
            world.start(environment, "memory:c")
        control.abort(world.main, world.look(repack), actor="operator")
    restore(world, environment)
    assert world.repack(environment, "memory:c").state == RepackState.FINISHED


def test_a_parked_repack_is_woken_once_its_return_is_committed(world: World) -> None:
    """Whoever answers the wake-up finds a repack that runs; a broker that hangs then holds no lock and no return up."""
    environment = world.environment()
    usual_tree(world, environment)
    repack = world.start(environment)
    revoke(world, environment)
    found = []

    class Looking(NullWaker):
        def repack(self, repack: int, *, times: int = 1) -> None:
            with world.process().database.read() as connection:
                found.append(get_repack(connection, repack).is_running)

    locking.restore(world.process(wake=Looking()), [environment], actor="customer")
    assert (found, world.look(repack).is_running) == ([True], True)


def test_no_batch_commits_after_a_revocation(world: World) -> None:
    """R8: a batch that was prepared before the lock finds it in its own transaction, and leaves."""
    environment = world.environment()
    usual_tree(world, environment)
    repack = world.start(environment)
    before = world.dump()["root_wraps"]

    async def withdraw(_operation: str, _name: str) -> None:
        revoke(world, environment)

    world.kms.before("rewrap", withdraw)
    walk_slice(world.process(), repack.id)
    assert world.dump()["root_wraps"] == before
    assert world.look(repack).state == RepackState.BLOCKED


def test_a_parked_repack_is_not_resumed_by_hand(world: World) -> None:
    """An operator's resume does not open what the customer closed; an abort is legal meanwhile."""
    environment = world.environment()
    usual_tree(world, environment)
    repack = world.start(environment)
    revoke(world, environment)
    with pytest.raises(EnvironmentLocked):
        control.resume(world.main, world.look(repack), actor="operator")
    assert control.abort(world.main, world.look(repack), actor="operator").state == RepackState.ABORTED


@pytest.mark.parametrize("cause", [Cause.DENIED, Cause.DISABLED, Cause.PENDING_DELETION])
def test_a_refusal_by_the_kms_locks_at_the_first_failed_read(world: World, cause: Cause) -> None:
    """A refused unwrap is looked into once more, and locks the environment as restricted, with the KMS's cause."""
    environment = world.environment()
    keys = usual_tree(world, environment)
    key = next(iter(keys))
    world.kms.set_state("a", cause)
    world.forget()
    with pytest.raises(KmsRefused):
        world.keyring.unwrap(key)
    assert lock_of(world, environment) == LockCause.RESTRICTED
    with world.main.database.read() as connection:
        assert cause.value in (find_environment(connection, environment.environment_id).lock_detail or "")


def test_cached_keys_serve_until_the_refusal_is_noticed(world: World) -> None:
    """A key in the cache is served while nobody has noticed a refusal; once locked, it is not."""
    environment = world.environment()
    keys = usual_tree(world, environment)
    first, second = list(keys)[:2]
    keyring = Keyring(world.main)
    keyring.unwrap(first)
    world.kms.set_state("a", Cause.DISABLED)
    assert keyring.unwrap(first) == keys[first]
    with pytest.raises(KmsRefused):
        keyring.unwrap(second)
    with pytest.raises(EnvironmentLocked):
        keyring.unwrap(first)


def test_a_kms_that_does_not_answer_locks_nothing(world: World) -> None:
    """Unreachable is not revoked: cached keys serve, others fail as unreachable, and nothing is locked."""
    environment = world.environment()
    keys = usual_tree(world, environment)
    first, second = list(keys)[:2]
    keyring = Keyring(world.main)
    keyring.unwrap(first)
    world.kms.unreachable("a")
    assert keyring.unwrap(first) == keys[first]
    with pytest.raises(KmsUnreachable):
        keyring.unwrap(second)
    assert lock_of(world, environment) is None


def test_a_restricted_environment_unlocks_when_its_kms_answers_again(world: World) -> None:
    """The lock by the KMS ends with it; a revocation by the customer's word does not."""
    environment = world.environment()
    keys = usual_tree(world, environment)
    world.kms.set_state("a", Cause.DISABLED)
    assert restrict(world.main, environment, cause=Cause.DISABLED, detail="seen by the poll")
    world.kms.set_state("a", None)
    assert unlock_if_restricted(world.main, environment)
    assert {key: Keyring(world.main).unwrap(key) for key in keys} == keys
    revoke(world, environment)
    assert not unlock_if_restricted(world.main, environment)
    assert lock_of(world, environment) == LockCause.REVOKED


def test_a_hint_of_a_refusal_is_not_believed(world: World) -> None:
    """A restriction is confirmed by asking the KMS again: a key that works stays unlocked."""
    environment = world.environment()
    assert not restrict(world.main, environment, cause=Cause.DENIED, detail="somebody said so")
    assert lock_of(world, environment) is None


def test_a_deleted_main_key_loses_the_environment(world: World) -> None:
    """A key that its KMS does not know any more is lost, and the audit says so."""
    environment = world.environment()
    world.kms.delete("a")
    assert restrict(world.main, environment, cause=Cause.DELETED, detail="")
    assert lock_of(world, environment) == LockCause.LOST
    assert len(world.rows(audit, audit.c.action == "environment.lost")) == 1


@pytest.mark.parametrize("gone", ["a", "b"])
def test_one_main_key_gone_in_mid_move_locks_nothing(world: World, gone: str) -> None:
    """R1: while a move is open the other main key still opens what is stored: blocked, not locked."""
    environment = world.environment()
    keys = usual_tree(world, environment)
    repack = world.start(environment)
    world.kms.set_state(gone, Cause.DISABLED)
    walk_slice(world.process(), repack.id)
    blocked = world.look(repack)
    assert (blocked.state, blocked.block_side) == (RepackState.BLOCKED, "source" if gone == "a" else "target")
    assert lock_of(world, environment) is None
    if gone == "b":
        control.abort(world.main, blocked, actor="operator")
        assert {key: Keyring(world.process()).unwrap(key) for key in keys} == keys


def test_both_main_keys_gone_in_mid_move_lock_the_environment(world: World) -> None:
    """With neither main key to open it the environment is restricted, and its repack parked."""
    environment = world.environment()
    usual_tree(world, environment)
    repack = world.start(environment)
    for name in ("a", "b"):
        world.kms.set_state(name, Cause.DISABLED)
    walk_slice(world.process(), repack.id)
    assert lock_of(world, environment) == LockCause.RESTRICTED
    assert world.look(repack).state == RepackState.BLOCKED


def test_the_main_key_gone_in_mid_renewal_locks_and_comes_back(world: World) -> None:
    """In a renewal the main key is the only one: restricted and parked, and on to the end when it is back."""
    environment = world.environment()
    keys = usual_tree(world, environment)
    repack = until(world, world.start(environment), Stage.RENEW)
    world.kms.set_state("b", Cause.DENIED)
    walk_slice(world.process(), repack.id)
    assert lock_of(world, environment) == LockCause.RESTRICTED
    world.kms.set_state("b", None)
    unlock_if_restricted(world.main, environment)
    if world.clock is not None:
        world.clock.let_pass(600)
    assert world.run(repack).state == RepackState.FINISHED
    assert {key: Keyring(world.main).unwrap(key) for key in keys} == keys
    assert verify_environment(world.main, environment).broken == 0


def test_a_rotation_in_mid_run_is_followed_by_the_next_repack(world: World) -> None:
    """A KMS rotates the target while a repack moves onto it: the run ends, and a repack of its own follows."""
    environment = world.environment()
    keys = usual_tree(world, environment)
    repack = started(world, environment, steps=5)
    world.kms.rotate("b")
    assert world.run(repack).state == RepackState.FINISHED
    assert world.repack(environment, None, Mode.SHALLOW).state == RepackState.FINISHED
    assert {key: Keyring(world.main).unwrap(key) for key in keys} == keys


def test_a_key_that_is_described_and_opens_nothing_is_restricted(world: World) -> None:
    """A policy that leaves DescribeKey and withdraws Decrypt is a restriction, and no poll's look lifts it."""
    environment = world.environment()
    keys = usual_tree(world, environment)

    async def refuse(operation: str, name: str) -> None:
        raise KmsRefused(main_key=f"memory:{name}", cause=Cause.DENIED, operation=operation)

    world.kms.before("unwrap", refuse)
    world.forget()
    with pytest.raises(KmsRefused):
        world.keyring.unwrap(next(iter(keys)))
    assert lock_of(world, environment) == LockCause.RESTRICTED
    assert not unlock_if_restricted(world.main, environment)
    world.kms.before("unwrap", None)
    assert unlock_if_restricted(world.main, environment)
