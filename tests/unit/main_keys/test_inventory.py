"""The inventory of main keys in use, and the certificate of what is lost with one."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from sqlalchemy import event

from schemas.keys import KeyKind, MainKeyUri
from schemas.states import LockCause, Mode, Stage
from tests.engine import Actor, World, chain_of_keys, usual_tree
from tests.steps import until
from workers.errors import Cause, NotFound
from workers.main_keys.inventory import MainKeyHealth, MainKeyView, certificate_of_loss, list_main_keys
from workers.main_keys.polling import poll_main_keys
from workers.repack.lifecycle import walk_slice
from workers.store.audit import read_head
from workers.store.environments import Environment, find_environment, set_lock
from workers.store.models import root_wraps
from workers.store.queries.inventory import LostKey, every_key
from workers.store.repacks import open_repack


def inventory(world: World, *uris: str) -> dict[str, MainKeyView]:
    return {view.uri: view for view in list_main_keys(world.main, uris or None)}


def look(world: World) -> None:
    """Have every main key in use looked at: one pass takes up new ones, and one later finds all of them due."""
    assert world.clock is not None
    poll_main_keys(world.main, most=1000)
    world.clock.let_pass(1000)
    poll_main_keys(world.main, most=1000)


def generation(world: World, name: str) -> str | None:
    """A main key's current generation."""
    return world.main.loop.run(world.kms.main_key(MainKeyUri("memory", name)).describe()).generation


def lose(world: World, environment: Environment) -> Environment:
    """Lock an environment as lost, as `locking` does when its main key is deleted."""
    with world.main.database.write() as connection:
        set_lock(connection, environment.id, cause=LockCause.LOST, detail="deleted")
        return find_environment(connection, environment.environment_id)


def test_a_main_key_is_listed_with_its_environments(world: World) -> None:
    """Each main key once, by URI, with its environments by name and the generation of their tops."""
    for name, key in (
        ("acme/production", "memory:a"),
        ("acme/development", "memory:b"),
        ("zeta/production", "memory:a"),
    ):
        world.environment(name, key)
    found = inventory(world)
    assert list(found) == ["memory:a", "memory:b"]
    assert [user.name for user in found["memory:a"].environments] == ["acme/production", "zeta/production"]
    assert found["memory:a"].generations_in_use == (generation(world, "a"),)
    assert found["memory:a"].health is MainKeyHealth.UNSEEN
    assert list(inventory(world, "memory:b", "memory:none")) == ["memory:b"]


def test_an_inventory_of_nothing_is_empty(world: World) -> None:
    """Without environments no main key is in use."""
    assert inventory(world) == {}


def test_a_view_tells_how_a_key_was_last_seen(world: World) -> None:
    """Usable, refused with its cause, or unreachable: since when, and when its KMS last answered."""
    for key in ("a", "b", "c"):
        usual_tree(world, world.environment(f"acme/{key}", f"memory:{key}"))
    look(world)
    assert {view.health for view in inventory(world).values()} == {MainKeyHealth.USABLE}
    seen = inventory(world)["memory:c"].last_seen
    world.kms.set_state("b", Cause.DISABLED)
    world.kms.unreachable("c")
    look(world)
    found = inventory(world)
    assert [view.health for view in found.values()] == [
        MainKeyHealth.USABLE,
        MainKeyHealth.REFUSED,
        MainKeyHealth.UNREACHABLE,
    ]
    assert (found["memory:b"].cause, found["memory:c"].cause) == ("disabled", "unreachable")
    assert found["memory:b"].environments[0].lock_cause == LockCause.RESTRICTED
    assert found["memory:c"].last_seen == seen
    assert (found["memory:c"].since or 0) > (seen or 0)


def test_roots_are_counted_by_generation(world: World) -> None:
    """Every wrap of a root under a live top counts once, by the generation that made it."""
    environment = world.environment()
    usual_tree(world, environment)
    roots, old = len(world.rows(root_wraps)), generation(world, "a")
    new = world.kms.rotate("a")
    world.keyring.create_data_key(environment.environment_id)
    assert inventory(world)["memory:a"].roots == {old: roots, new: 1}


def test_after_a_rotation_older_roots_are_stale(world: World) -> None:
    """Once the KMS was seen to have rotated, roots of the older generation are stale, and none after the repack."""
    environment = world.environment()
    usual_tree(world, environment)
    roots, old = world.rows(root_wraps), generation(world, "a")
    assert inventory(world)["memory:a"].stale_roots == 0
    new = world.kms.rotate("a")
    look(world)  # it starts the repack, too
    found = inventory(world)["memory:a"]
    assert (found.generation_seen, found.stale_roots) == (new, len(roots))
    oldest = found.oldest_stale
    assert oldest is not None
    assert (oldest.environment, oldest.top_version, oldest.generation) == ("acme/production", 1, old)
    finish(world, environment)
    after = inventory(world)["memory:a"]
    assert (after.stale_roots, after.oldest_stale, list(after.roots)) == (0, None, [new])


def test_while_a_move_is_open_both_keys_are_listed(world: World) -> None:
    """The key that a move leaves is draining, and its stale roots are those that lack their new wrap, oldest first."""
    environment = world.environment()
    usual_tree(world, environment, hours=12)
    repack = world.start(environment)
    actor = Actor(world, lambda services: walk_slice(services, repack.id))
    while not (moved := [row for row in world.rows(root_wraps) if row["top_version"] == 2]):
        actor.step()
    found = inventory(world)
    assert found["memory:a"].environments[0].draining
    assert not found["memory:b"].environments[0].draining
    assert found["memory:a"].stale_roots == sum(found["memory:a"].roots.values()) - len(moved)
    assert 0 < len(moved) < sum(found["memory:a"].roots.values())
    assert sum(found["memory:b"].roots.values()) == len(moved)
    assert found["memory:b"].stale_roots == 0
    actor.finish()
    world.run(repack)
    assert list(inventory(world)) == ["memory:b"]


def test_the_number_of_statements_does_not_grow(world: World) -> None:
    """Ten times the environments and roots take as many statements as one: none is asked a root."""
    counts = []
    for number in range(10):
        usual_tree(world, world.environment(f"acme/{number}", f"memory:{number % 3}"))
        if number in {2, 9}:
            counts.append(count_statements(world))
    assert counts[0] == counts[1] <= 8


def count_statements(world: World) -> int:
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(world.main.database.engine, "before_cursor_execute", note)
    inventory(world)
    event.remove(world.main.database.engine, "before_cursor_execute", note)
    return len(statements)


def test_a_certificate_of_loss_names_every_key(world: World) -> None:
    """Every key of a lost environment, by kind and level, in a census that its names can be checked against."""
    environment = world.environment()
    usual_tree(world, environment, hours=3, jobs=4)
    chain_of_keys(world, environment, 3)
    other = world.environment("acme/other")
    usual_tree(world, other)
    lost = lose(world, environment)
    named: list[LostKey] = []
    with world.main.database.snapshot() as connection:
        certificate = certificate_of_loss(connection, lost, name=named.append)
        seq, head = read_head(connection)
    assert certificate["by_kind_and_level"] == {
        "wrapping": {"1": 4, "2": 1, "3": 1},
        "data": {"1": 2, "2": 14, "3": 2, "4": 2},
    }
    assert certificate["keys"] == len(named) == len({key.key_id for key in named}) == 26
    lines = [f"{key.kind}:{key.level}:{key.key_id}:{key.version}:{key.fingerprint.hex()}\n" for key in named]
    assert certificate["census"] == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert certificate["audit"] == {"seq": seq, "hash": head.hex()}
    assert certificate["main_keys"] == [
        {"main_key": "memory:a", "generation": generation(world, "a"), "top_version": 1}
    ]
    assert {key.kind for key in named} == set(KeyKind)


def test_each_version_that_was_left_is_named(world: World) -> None:
    """A wrapping key lost in mid-renewal is lost in every version that is not shredded."""
    environment = world.environment()
    usual_tree(world, environment)
    repack = world.start(environment, mode=Mode.DEEP)
    until(world, repack, Stage.RENEW)
    actor = Actor(world, lambda services: walk_slice(services, repack.id))
    while not any(version > 1 for _, version in versions(world, environment)):
        actor.step()
    actor.kill()
    seen = versions(world, lose(world, environment))
    assert any(version > 1 for _, version in seen)
    assert len(seen) == len(set(seen))


def versions(world: World, environment: Environment) -> list[tuple[Any, int]]:
    with world.main.database.snapshot() as connection:
        return [(key.key_id, key.version) for key in every_key(connection, environment.id)]


@pytest.mark.parametrize("lock", [None, LockCause.REVOKED, LockCause.RESTRICTED])
def test_nothing_is_certified_as_lost_that_may_come_back(world: World, lock: LockCause | None) -> None:
    """A revocation and a restriction can be taken back: only a lost environment has a certificate of loss."""
    environment = world.environment()
    with world.main.database.write() as connection:
        if lock is not None:
            set_lock(connection, environment.id, cause=lock, detail=None)
        current = find_environment(connection, environment.environment_id)
        with pytest.raises(NotFound, match=lock or "not locked"):
            certificate_of_loss(connection, current)


def test_a_deleted_main_key_ends_in_a_certificate(world: World) -> None:
    """From the KMS's own answer to the certificate: a look sees it deleted, the lock is `lost`, all keys are named."""
    environment = world.environment()
    usual_tree(world, environment)
    look(world)
    world.kms.delete("a")
    look(world)
    with world.main.database.snapshot() as connection:
        lost = find_environment(connection, environment.environment_id)
        assert lost.lock_cause == LockCause.LOST
        assert certificate_of_loss(connection, lost)["keys"] == 17


def finish(world: World, environment: Environment) -> None:
    """Run the environment's open repack to its end."""
    with world.main.database.read() as connection:
        repack = open_repack(connection, environment.id)
    assert repack is not None
    world.run(repack)
