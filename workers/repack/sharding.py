"""Cuts a stage's keys into shards: contiguous ranges of about equal size. Pure; memory grows with the shards alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from schemas.ranges import END, Cursor, Range

MAX_SHARDS = 1024
"""More would only be rows to search; a shard of a huge stage is larger instead."""

SplitParent = Callable[[int, int], Iterable[int]]
"""(parent, step) → every step-th key below it, in order."""


def shard_size_for(keys: int, *, least: int) -> int:
    """Keys in a shard, so that there are at most MAX_SHARDS of them."""
    return max(least, -(-keys // MAX_SHARDS))


def at_most(ranges: list[Range], most: int = MAX_SHARDS) -> list[Range]:
    """Join neighbours among ranges until there are at most `most`."""
    while len(ranges) > most:
        pairs = [ranges[at : at + 2] for at in range(0, len(ranges), 2)]
        ranges = [replace(pair[0], upto=pair[-1].upto, expected=sum(part.expected for part in pair)) for pair in pairs]
    return ranges


def cut_children(counts: Iterable[tuple[int, int]], *, size: int, split: SplitParent) -> Iterator[Range]:
    """Ranges over (parent, child) from each parent's count of children, in order of parents.

    A parent with more than two shards' worth of children is cut itself. Parents without children are covered too: they
    have a version to be minted. The ranges touch: nothing between the first and the last parent is left out.
    """
    after: Cursor = (0, END)
    last, gathered = 0, 0
    for parent, count in counts:
        if gathered and gathered + count > size:
            yield Range(after=after, upto=(last, END), expected=gathered)
            after, gathered = (last, END), 0
        if count > 2 * size:
            for key in list(split(parent, size))[:-1]:
                yield Range(after=after, upto=(parent, key), expected=size)
                after, count = (parent, key), count - size
        last, gathered = parent, gathered + count
    if last:
        yield Range(after=after, upto=(last, END), expected=gathered)
