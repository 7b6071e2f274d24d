"""Plans: which stage comes next, and how its keys are cut into shards. Reads only; what it returns are ranges."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.keys import KeyKind
from schemas.ranges import END, Range
from schemas.states import Mode, Stage
from workers.repack.sharding import at_most, cut_children, shard_size_for
from workers.services import Services
from workers.store.database import Connection
from workers.store.environments import Environment
from workers.store.hierarchy_queries import child_counts, deepest_level, split_parent, wrapping_key_rows
from workers.store.repacks import Repack
from workers.store.roots import count_roots, root_boundaries

ROOTS_IN_SHARD = 256
"""Roots are few and slow (a KMS call each): small shards let every worker take part."""

KEYS_IN_SHRED_SHARD = 50
"""Wrapping keys whose old versions one worker proves unused at a time: each proof reads all that was wrapped under
them.
"""


def plan_move(connection: Connection, environment: Environment) -> list[Range]:
    """Plan ranges over the roots: wrapping keys first, since everything else is wrapped under them."""
    ranges: list[Range] = []
    for kind in (KeyKind.WRAPPING, KeyKind.DATA):
        count, last = count_roots(connection, environment.id, kind)
        size = shard_size_for(count, least=ROOTS_IN_SHARD)
        after, left = 0, count
        for boundary in root_boundaries(connection, environment.id, kind, step=size) if count else []:
            ranges.append(Range(after=(after, END), upto=(boundary, END), expected=min(size, left), kind=kind))
            after, left = boundary, left - size
        if after < last:
            ranges.append(Range(after=(after, END), upto=(last, END), expected=left, kind=kind))
    return ranges


def next_stage(services: Services, repack: Repack) -> tuple[Stage, int] | None:
    """Return what comes after this stage and level: down through the levels renewing, up again shredding."""
    if repack.mode == Mode.SHALLOW:
        return None
    with services.database.read() as connection:
        deepest = deepest_level(connection, repack.environment)
    level = 0 if repack.stage == Stage.MOVE else repack.level
    if repack.stage != Stage.SHRED:
        following = (Stage.RENEW, level + 1) if level < deepest else (Stage.SHRED, deepest)
    else:
        following = (Stage.SHRED, level - 1)
    return following if following[1] > 0 else None


def plan_stage(services: Services, repack: Repack, following: tuple[Stage, int]) -> list[Range]:
    """Plan ranges of a stage before the locks are taken: a key that comes later is under a fresh version already."""
    stage, level = following
    if repack.stage == Stage.MOVE:
        return []  # the move closes first: what was created until then belongs into the plan
    with services.database.read() as connection:
        if stage == Stage.SHRED:
            keys = ((key, 1) for key in wrapping_key_rows(connection, repack.environment, level))
            return at_most(list(cut_children(keys, size=KEYS_IN_SHRED_SHARD, split=lambda _parent, _step: ())))

        def split(parent: int, step: int) -> Iterator[int]:
            return split_parent(connection, repack.environment, level, parent, step)

        counts = child_counts(connection, repack.environment, level)
        return at_most(list(cut_children(counts, size=services.settings.shard_size, split=split)))
