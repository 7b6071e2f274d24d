"""The read side: what is created is durable before it is served, lands under the active version, and stays readable."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

import pytest

from schemas.keys import MAX_LEVELS
from schemas.states import Mode, RepackState, Stage
from tests.corruption import flip, set_row
from tests.engine import Actor, Crash, CrashDoor, World, chain_of_keys, usual_tree
from tests.oracle import Oracle
from tests.steps import until
from workers.errors import (
    Cause,
    EnvironmentLocked,
    HierarchyBroken,
    KmsRefused,
    KmsUnreachable,
    NotFound,
    VersionGone,
    WrapReason,
    WrapRefused,
)
from workers.keyring import creation
from workers.keyring.keyring import Keyring
from workers.keyring.minting import mint_child
from workers.locks.restriction import unlock_if_restricted
from workers.repack.lifecycle import walk_slice
from workers.runtime.single_flight import FAILURE_SECONDS
from workers.services import Services
from workers.store import models, versions
from workers.store.keys import find_wrapping_key


def test_creates_and_unwraps(world: World) -> None:
    """A key opens to what its creator got, in another process too."""
    environment = world.environment()
    known = usual_tree(world, environment)
    fresh = Keyring(world.process())
    assert {key: fresh.unwrap(key) for key in known} == known


def test_an_unknown_key_is_named(world: World) -> None:
    """A key, a parent or an environment that is not there is named."""
    environment = world.environment()
    missing = uuid4()
    with pytest.raises(NotFound, match=str(missing)):
        world.keyring.unwrap(missing)
    with pytest.raises(NotFound, match=str(missing)):
        world.keyring.create_data_key(environment.environment_id, missing)
    with pytest.raises(NotFound, match="acme/nowhere"):
        world.keyring.create_data_key("acme/nowhere")


def test_a_parent_of_another_tenant_is_refused(world: World) -> None:
    """R6: nobody hangs a key below another environment's."""
    mine, theirs = world.environment(), world.environment("evil/production")
    foreign = chain_of_keys(world, theirs, 1)[0]
    before = world.dump()
    with pytest.raises(NotFound):
        world.keyring.create_data_key(mine.environment_id, foreign)
    assert world.dump() == before


def test_eight_levels_and_no_more(world: World) -> None:
    """A ninth level of wrapping keys is refused; data keys below the eighth are fine."""
    environment = world.environment()
    deepest = chain_of_keys(world, environment, MAX_LEVELS)[-1]
    with pytest.raises(HierarchyBroken):
        world.keyring.create_wrapping_key(environment.environment_id, deepest)
    world.keyring.create_data_key(environment.environment_id, deepest)


def test_a_rolled_back_key_is_never_served(world: World) -> None:
    """A key whose transaction did not commit is in no cache: what it wrapped could never be read again."""
    environment = world.environment()
    parent = world.keyring.create_wrapping_key(environment.environment_id)
    services = world.process(door=CrashDoor(1, committed=False))  # 0 reserves wraps, 1 stores the key
    keyring = Keyring(services)
    with pytest.raises(Crash):
        keyring.create_data_key(environment.environment_id, parent)
    assert len(keyring._data) == 0
    assert not world.rows(models.data_keys)


def test_roots_get_every_live_main_keys_wrap(world: World, oracle: Oracle) -> None:
    """R1: a root that is created while a move is open gets a wrap under the old main key and the new one."""
    environment = world.environment()
    usual_tree(world, environment)
    repack = world.start(environment)
    created = world.keyring.create_data_key(environment.environment_id)
    wrapping = world.keyring.create_wrapping_key(environment.environment_id)
    oracle.check()
    rows = {row["key_id"]: (row["id"], "data") for row in world.rows(models.data_keys)}
    rows |= {row["key_id"]: (row["id"], "wrapping") for row in world.rows(models.wrapping_keys)}
    for key in (created.key_id, wrapping):
        own = [wrap for wrap in world.rows(models.root_wraps) if (wrap["key"], wrap["kind"]) == rows[key]]
        assert {wrap["top_version"] for wrap in own} == {1, 2}
    assert world.run(repack).state == RepackState.FINISHED
    oracle.check_ended(environment.id, "memory:b", deep=True)


def test_a_root_whose_top_changed_meanwhile_is_made_again(world: World, oracle: Oracle) -> None:
    """R1: a repack that starts between the KMS's answer and the commit makes the creator look again."""
    environment = world.environment()
    writer = Actor(world, lambda services: Keyring(services).create_data_key(environment.environment_id))
    while writer._kind != "write":
        writer.step()
    world.start(environment)
    writer.finish()
    assert writer.error is None
    oracle.check()
    assert len(world.rows(models.root_wraps)) == 2


@pytest.mark.parametrize("wrapping", [False, True], ids=["data", "wrapping"])
def test_a_late_writer_is_rewrapped(world: World, oracle: Oracle, wrapping: bool) -> None:
    """R5: a key that comes under a version after its walk has passed is a straggler: moved before that is shredded."""
    environment = world.environment()
    usual_tree(world, environment, hours=1)
    parent = world.rows(models.wrapping_keys)[0]["key_id"]

    def create(services: Services) -> UUID:
        keyring, name = Keyring(services), environment.environment_id
        return keyring.create_wrapping_key(name, parent) if wrapping else keyring.create_data_key(name, parent).key_id

    writer = Actor(world, create)
    while not (writer._kind == "write" and _is_reserved(world)):
        writer.step()
    repack = until(world, world.start(environment), Stage.SHRED)
    writer.finish()
    assert writer.error is None
    oracle.check()
    table = models.wrapping_versions if wrapping else models.data_keys
    assert world.rows(table)[-1]["parent_version"] == 1  # it came late
    assert world.run(repack).state == RepackState.FINISHED
    oracle.check_ended(environment.id, "memory:b", deep=True)
    assert world.rows(table)[-1]["parent_version"] == 2


def _is_reserved(world: World) -> bool:
    return world.rows(models.wrapping_versions)[0]["wraps"] >= creation.RESERVED * 2


def test_a_writer_that_comes_too_late_takes_the_active_version(world: World, oracle: Oracle) -> None:
    """R5: a version that was shredded meanwhile refuses the key cleanly, and it is made under the active one."""
    environment = world.environment()
    usual_tree(world, environment, hours=1)
    parent = world.rows(models.wrapping_keys)[0]["key_id"]
    writer = Actor(world, lambda services: Keyring(services).create_data_key(environment.environment_id, parent))
    while not (writer._kind == "write" and _is_reserved(world)):
        writer.step()
    assert world.repack(environment).state == RepackState.FINISHED
    writer.finish()
    assert writer.error is None
    oracle.check_ended(environment.id, "memory:b", deep=True)
    row = next(row for row in world.rows(models.data_keys) if row["key_id"] == writer.outcome.key_id)
    assert row["parent_version"] == 2


def test_a_shredded_version_holds_nothing(world: World) -> None:
    """R5: the creator's lock on a shredded version says so by name."""
    environment = world.environment()
    usual_tree(world, environment, hours=1)
    world.repack(environment)
    key = world.rows(models.wrapping_keys)[0]
    with world.main.database.write() as connection, pytest.raises(VersionGone, match=str(key["key_id"])):
        versions.hold_version(connection, (key["id"], 1))


def test_a_full_version_is_rekeyed(world: World, oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    """R6: a version that has made as many wraps as random nonces allow is rekeyed, not used; nothing else changes."""
    monkeypatch.setattr(creation, "WRAP_LIMIT", 3000)
    environment = world.environment()
    root, child = chain_of_keys(world, environment, 2, jobs=1)
    created = []
    for parent in (root, child) * 3:
        created += world.keyring.create_data_keys(environment.environment_id, parent, 1)
    oracle.check()
    states = [row["state"] for row in world.rows(models.wrapping_versions)]
    assert states.count("active") == 2
    assert states.count("draining") >= 2
    fresh = Keyring(world.process())
    assert all(fresh.unwrap(one.key_id) == one.material for one in created)
    assert world.repack(environment).state == RepackState.FINISHED
    oracle.check_ended(environment.id, "memory:b", deep=True)


@pytest.mark.parametrize("levels", [1, 2])
def test_rekeyed_while_it_is_renewed(world: World, levels: int) -> None:
    """R6: a key that is rekeyed between its mint and the walk of its shard is walked all the same."""
    environment = world.environment()
    deepest = chain_of_keys(world, environment, levels, jobs=12)[-1]
    row = next(row for row in world.rows(models.wrapping_keys) if row["key_id"] == deepest)
    repack = world.start(environment)
    worker = Actor(world, lambda services: walk_slice(services, repack.id))
    own = models.wrapping_versions.c.wrapping_key == row["id"]
    while len(world.rows(models.wrapping_versions, own)) < 2:
        worker.step()
    worker.kill()
    with world.main.database.read() as connection:
        current = find_wrapping_key(connection, deepest)
    creation.Creation(world.main).rekey(environment, current)
    assert world.clock is not None
    world.clock.let_pass(31)
    assert world.run(repack).state == RepackState.FINISHED
    Oracle(world, watching=False).check_ended(environment.id, "memory:b", deep=True)


def test_a_broken_key_says_so(world: World) -> None:
    """A key whose wrap does not open is refused with its reason; the one beside it opens."""
    environment = world.environment()
    known = usual_tree(world, environment, hours=1, jobs=3)
    rows = [row for row in world.rows(models.data_keys) if row["parent"]]
    broken = {
        rows[0]["key_id"]: ({"wrapped": flip(rows[0]["wrapped"])}, WrapReason.DOES_NOT_OPEN),
        rows[1]["key_id"]: ({"wrapped": None}, WrapReason.MALFORMED),
    }
    fresh = Keyring(world.process())
    for key, (values, reason) in broken.items():
        set_row(world, models.data_keys, models.data_keys.c.key_id == key, **values)
        with pytest.raises(WrapRefused) as refused:
            fresh.unwrap(key)
        assert refused.value.reason == reason
    assert fresh.unwrap(rows[2]["key_id"]) == known[rows[2]["key_id"]]


def test_a_locked_environment_is_closed(world: World) -> None:
    """R8: neither reading nor creating in an environment that is locked."""
    environment = world.environment()
    known = usual_tree(world, environment)
    own = models.environments.c.id == environment.id
    set_row(world, models.environments, own, lock_cause="revoked")
    keyring = Keyring(world.process())
    with pytest.raises(EnvironmentLocked, match="revoked"):
        keyring.unwrap(next(iter(known)))
    for parent in (None, world.rows(models.wrapping_keys)[0]["key_id"]):
        with pytest.raises(EnvironmentLocked):
            keyring.create_data_key(environment.environment_id, parent)


@pytest.mark.parametrize("parent", [False, True], ids=["root", "below"])
def test_a_main_key_that_is_away(world: World, parent: bool) -> None:
    """A reader learns the precise cause, and reads on as soon as the main key is back."""
    assert world.clock is not None
    environment = world.environment()
    known = usual_tree(world, environment)
    row = next(row for row in world.rows(models.data_keys) if bool(row["parent"]) == parent)
    fresh = Keyring(world.process())
    world.kms.set_state("a", Cause.DISABLED)
    with pytest.raises(KmsRefused) as refused:
        fresh.unwrap(row["key_id"])
    assert refused.value.cause == Cause.DISABLED
    with pytest.raises(EnvironmentLocked):  # it was looked into: nobody asks a KMS that said no
        fresh.unwrap(row["key_id"])
    world.kms.set_state("a", None)
    unlock_if_restricted(world.main, environment)
    world.clock.let_pass(1)
    assert fresh.unwrap(row["key_id"]) == known[row["key_id"]]


def test_a_kms_that_does_not_answer_is_asked_again(world: World) -> None:
    """An unreachable main key locks nothing; a failure is remembered for ten seconds, then its KMS is asked again."""
    environment = world.environment()
    known = usual_tree(world, environment)
    key = next(iter(known))
    fresh = Keyring(world.process())
    world.kms.set_state("a", Cause.UNREACHABLE)
    with pytest.raises(KmsUnreachable):
        fresh.unwrap(key)
    world.kms.set_state("a", None)
    with pytest.raises(KmsUnreachable):
        fresh.unwrap(key)
    assert world.clock is not None
    world.clock.let_pass(FAILURE_SECONDS)
    assert fresh.unwrap(key) == known[key]


def test_plaintext_lives_no_longer_than_allowed(world: World) -> None:
    """R8: five minutes after a key was filled the KMS is asked again, however often it was read meanwhile."""
    assert world.clock is not None
    environment = world.environment()
    known = usual_tree(world, environment, hours=1)
    row = next(row for row in world.rows(models.data_keys) if row["parent"])
    keyring, calls = Keyring(world.process()), world.kms.calls["unwrap"]
    for _ in range(29):
        assert keyring.unwrap(row["key_id"]) == known[row["key_id"]]
        world.clock.let_pass(10)
    assert world.kms.calls["unwrap"] == calls + 1
    world.kms.set_state("a", Cause.DENIED)
    assert keyring.unwrap(row["key_id"]) == known[row["key_id"]]
    world.clock.let_pass(10)
    with pytest.raises(KmsRefused):
        keyring.unwrap(row["key_id"])


def test_a_move_that_closes_while_the_old_main_key_is_asked(world: World) -> None:
    """R1: a reader that began under the old main key, which is disabled as the certificate allows, notices nothing."""
    environment = world.environment()
    known = usual_tree(world, environment, hours=1)
    row = next(row for row in world.rows(models.data_keys) if row["parent"])
    other = world.process()

    async def close_the_move(_operation: str, name: str) -> None:
        if name == "a":
            world.kms.before("unwrap", None)
            repack = world.start(environment, "memory:b", Mode.SHALLOW, services=other)
            while walk_slice(other, repack.id):
                pass
            assert world.look(repack).certificate
            world.kms.set_state("a", Cause.DISABLED)

    keyring = Keyring(world.process())
    world.kms.before("unwrap", close_the_move)
    assert keyring.unwrap(row["key_id"]) == known[row["key_id"]]


@pytest.mark.parametrize("job", ["root", "child", "wrapping", "read"])
def test_a_repack_goes_by_at_any_transaction(job: str, world: World, oracle: Oracle) -> None:
    """R1, R5: held at any transaction while a deep repack goes by and the old main key is disabled, a job succeeds."""
    held_at, keys = 0, ("memory:b", "memory:c")
    environment = world.environment()
    known = usual_tree(world, environment, hours=1)
    row = next(row for row in world.rows(models.data_keys) if row["parent"])
    parent, name = world.rows(models.wrapping_keys)[0]["key_id"], environment.environment_id
    jobs: dict[str, Callable[[Keyring], object]] = {
        "root": lambda keyring: keyring.create_data_key(name),
        "child": lambda keyring: keyring.create_data_key(name, parent),
        "wrapping": lambda keyring: keyring.create_wrapping_key(name, parent),
        "read": lambda keyring: keyring.unwrap(row["key_id"]) == known[row["key_id"]],
    }
    while True:
        actor = Actor(world, lambda services: jobs[job](Keyring(services)))
        for _ in range(held_at):
            actor.step()
        if actor.done:
            break
        target = keys[held_at % 2]
        world.kms.set_state(target.removeprefix("memory:"), None)
        repack = world.repack(environment, target)
        assert repack.state == RepackState.FINISHED
        world.kms.set_state(repack.source_key.removeprefix("memory:"), Cause.DISABLED)
        actor.finish()
        assert actor.error is None, f"held at transaction {held_at}"
        assert actor.outcome
        oracle.check()
        held_at += 1
    assert held_at >= 2


@pytest.mark.parametrize("wrapping", [False, True], ids=["data", "wrapping"])
@pytest.mark.parametrize("below", [False, True], ids=["root", "below"])
def test_a_move_that_closes_while_a_creator_asks_the_kms(world: World, below: bool, wrapping: bool) -> None:
    """R1: a creator that asks the old main key, disabled as the certificate allows, makes its key under the new one."""
    environment = world.environment()
    usual_tree(world, environment, hours=1)
    parent = world.rows(models.wrapping_keys)[0]["key_id"] if below else None
    other = world.process()
    repack = world.start(environment, "memory:b", Mode.SHALLOW, services=other)
    operation = "unwrap" if below else "wrap"  # a new root is wrapped by the old main key beside the new one

    async def close_the_move(_operation: str, name: str) -> None:
        if name == ("b" if below else "a"):
            world.kms.before(operation, None)
            while walk_slice(other, repack.id):
                pass
            assert world.look(repack).certificate
            world.kms.set_state("a", Cause.DISABLED)
            if below:
                world.repack(environment, "memory:c", Mode.SHALLOW)
                world.kms.set_state("b", Cause.DISABLED)

    keyring = Keyring(world.process())
    while below and walk_slice(other, repack.id):
        pass
    world.kms.before(operation, close_the_move)
    create = keyring.create_wrapping_key if wrapping else keyring.create_data_key
    assert create(environment.environment_id, parent)


def test_repr_tells_nothing(world: World) -> None:
    """R10: material is in no repr."""
    environment = world.environment()
    created = world.keyring.create_data_key(environment.environment_id)
    parent = world.keyring.create_wrapping_key(environment.environment_id)
    minted = mint_child(
        world.main, environment, key=uuid4(), parent=(1, 1), parent_id=parent, parent_material=bytes(32)
    )
    for one in (created, minted, world.main.cache, world.main):
        shown = repr(one)
        for material in (created.material, minted.material):
            assert repr(material) not in shown
            assert material.hex() not in shown
