"""Ranges of keys, and the groups in which a walk takes them up: plain values, shared by the cipher and the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from schemas.keys import KeyKind

Cursor = tuple[int, int]
"""Where a walk stands: (parent row, key row), in index order."""

END = 2**63 - 1
"""Above every row id."""


@dataclass(slots=True)
class Group:
    """Data keys of a page that are wrapped under one version of one parent. Four columns of equal length."""

    parent: int
    parent_version: int
    ids: Sequence[int]
    key_ids: Sequence[bytes] = field(repr=False)
    fingerprints: Sequence[bytes] = field(repr=False)
    wraps: Sequence[bytes] = field(repr=False)  # b"" where there is none


def last_cursor(groups: Sequence[Group]) -> Cursor:
    """Return the cursor after a page."""
    return max((group.parent, group.ids[-1]) for group in groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A contiguous part of a stage's keys: after < (parent, key) <= upto. For roots the parent is the key."""

    after: Cursor
    upto: Cursor
    expected: int
    kind: KeyKind = KeyKind.DATA
