"""The tree as such: what makes a set of keys a legal hierarchy. Pure: no library, no I/O.

A tree is legal when every root is of level 1, every other key's parent is there and one level above it, and no level is
deeper than 8. Levels that rise by one along every edge cannot close a circle; so a key that breaks the rule is where a
cycle, an orphan or a misplaced key is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from schemas.keys import MAX_LEVELS


class PlacementFault(StrEnum):
    """What is wrong with a key's place."""

    ORPHAN = "orphan"  # its parent is not there
    CYCLE = "cycle"  # it is its own ancestor
    FOREIGN = "foreign"  # its parent is another environment's
    TOO_DEEP = "too_deep"  # below the deepest level
    MISPLACED = "misplaced"  # its level is not its parent's plus one


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A key's place."""

    id: int
    key_id: UUID
    environment: int
    parent: int | None
    level: int


def find_fault(node: Node, nodes: Mapping[int, Node]) -> PlacementFault | None:
    """Find what is wrong with a key's place; `nodes` hold all its ancestors that exist."""
    if _is_in_cycle(node, nodes):
        return PlacementFault.CYCLE
    if node.parent is None:
        return None if node.level == 1 else PlacementFault.MISPLACED
    parent = nodes.get(node.parent)
    if parent is None:
        return PlacementFault.ORPHAN
    if parent.environment != node.environment:
        return PlacementFault.FOREIGN
    if node.level > MAX_LEVELS:
        return PlacementFault.TOO_DEEP
    return None if node.level == parent.level + 1 else PlacementFault.MISPLACED


def _is_in_cycle(node: Node, nodes: Mapping[int, Node]) -> bool:
    """Return True if climbing from a key comes back to it, or enters a cycle above it."""
    seen = {node.id}
    above = node.parent
    while above is not None and above in nodes:
        if above in seen:
            return True
        seen.add(above)
        above = nodes[above].parent
    return False
