"""Sharding: ranges touch, cover everything, and are never too many."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.ranges import END
from workers.repack.sharding import MAX_SHARDS, cut_children, shard_size_for


@settings(deadline=None, max_examples=60)
@given(counts=st.lists(st.integers(0, 60), max_size=12), size=st.integers(1, 15))
def test_ranges_touch_and_cover(counts: list[int], size: int) -> None:
    """Each key and each parent is in exactly one range; ranges touch, and are of about the size asked for."""
    parents = {2 * n + 2: [100 * n + key for key in range(count)] for n, count in enumerate(counts)}

    def split(parent: int, step: int) -> list[int]:
        keys = parents[parent]
        marks = keys[step - 1 :: step]
        return marks if marks and marks[-1] == keys[-1] else [*marks, keys[-1]]

    ranges = list(cut_children(((parent, len(keys)) for parent, keys in parents.items()), size=size, split=split))
    for before, after in itertools.pairwise(ranges):
        assert before.upto == after.after
    for parent, keys in parents.items():
        for place in [(parent, key) for key in keys] + [(parent, END)]:
            assert sum(part.after < place <= part.upto for part in ranges) == 1
    for part in ranges:
        inside = sum(part.after < (parent, key) <= part.upto for parent, keys in parents.items() for key in keys)
        assert inside == part.expected
        assert inside <= 2 * size


@given(keys=st.integers(0, 10**10), least=st.integers(1, 10**6))
def test_never_too_many_shards(keys: int, least: int) -> None:
    """A huge stage has larger shards, not more of them."""
    size = shard_size_for(keys, least=least)
    assert size >= least
    assert -(-keys // size) <= MAX_SHARDS
