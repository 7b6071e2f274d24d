"""Brings a repack to a certain point, and leaves it there as a killed worker would."""

from __future__ import annotations

from schemas.states import Stage
from tests.engine import Actor, World
from workers.repack.lifecycle import walk_slice
from workers.store.repacks import Repack


def until(world: World, repack: Repack, stage: Stage, level: int = 1) -> Repack:
    """Walk, one transaction at a time, until a stage has begun; then the worker dies, and its lease runs out."""
    actor = Actor(world, lambda services: walk_slice(services, repack.id))
    while (current := world.look(repack)).stage != stage or current.level != level:
        assert not actor.done, f"{stage} {level} was never reached: {current}"
        actor.step()
    actor.kill()
    assert world.clock is not None
    world.clock.let_pass(31)
    return world.look(repack)
