"""Opening versions from the main key down, while caches expire and main keys come and go."""

from __future__ import annotations

import pytest

from schemas.states import Mode
from tests.engine import World, chain_of_keys
from workers.errors import Cause, KmsRefused, WrapReason, WrapRefused
from workers.store import models


def test_a_chain_of_eight_costs_one_call(world: World) -> None:
    """Only the root's wrap is the KMS's affair; what was opened is remembered."""
    environment = world.environment()
    chain_of_keys(world, environment, 8)
    deepest = world.rows(models.wrapping_keys)[-1]["id"]
    services, calls = world.process(), world.kms.calls["unwrap"]
    for _ in range(2):
        assert isinstance(services.key_opener.open(environment.environment_id, [(deepest, 1)])[deepest, 1], bytes)
    assert world.kms.calls["unwrap"] == calls + 1


def test_a_cache_that_expires_between_reading_and_opening(world: World) -> None:
    """R9: a root that was cached when the rows were read, and is not when they are opened, is no broken key."""
    environment = world.environment()
    chain_of_keys(world, environment, 3)
    keys = [row["id"] for row in world.rows(models.wrapping_keys)]
    time = [0.0]
    services = world.process(cache_clock=lambda: time[0])
    services.key_opener.open(environment.environment_id, [(keys[0], 1)])
    with services.database.snapshot() as connection:
        rows = services.key_opener.read_rows(connection, [(keys[-1], 1)], 0)
    time[0] = 301.0
    opened = services.key_opener.open_rows(environment.environment_id, 0, rows, [(keys[-1], 1)])
    assert isinstance(opened[keys[-1], 1], bytes)
    # R8: what was known is given no second life: the root's time was over.
    assert services.cache.get((keys[0], 1), 0) is None


def test_the_other_main_key_opens_while_a_move_is_open(world: World) -> None:
    """R1: where the new main key refuses, the old one opens; where both do, the active one's answer is raised."""
    environment = world.environment()
    chain_of_keys(world, environment, 1)
    world.start(environment, "memory:b", Mode.SHALLOW)
    created = world.keyring.create_wrapping_key(environment.environment_id)
    row = next(row["id"] for row in world.rows(models.wrapping_keys) if row["key_id"] == created)
    world.kms.set_state("b", Cause.DENIED)
    opened = world.process().key_opener.open(environment.environment_id, [(row, 1)])
    assert isinstance(opened[row, 1], bytes)
    world.kms.set_state("a", Cause.DISABLED)
    with pytest.raises(KmsRefused) as refused:
        world.process().key_opener.open(environment.environment_id, [(row, 1)])
    assert (refused.value.main_key, refused.value.cause) == ("memory:b", Cause.DENIED)


def test_a_version_that_was_never_there(world: World) -> None:
    """It comes back as what it is, beside those that open."""
    environment = world.environment()
    chain_of_keys(world, environment, 1)
    opened = world.main.key_opener.open(environment.environment_id, [(1, 1), (1, 9)])
    assert isinstance(opened[1, 1], bytes)
    missing = opened[1, 9]
    assert isinstance(missing, WrapRefused)
    assert missing.reason == WrapReason.PARENT_MISSING
