"""The rules of a hierarchy: each fault is told apart."""

from __future__ import annotations

from uuid import uuid4

import pytest

from schemas.hierarchy import Node, PlacementFault, find_fault
from schemas.keys import MAX_LEVELS


def tree(*places: tuple[int, int | None, int, int]) -> dict[int, Node]:
    """Nodes from (id, parent, level, environment)."""
    return {
        id: Node(id=id, key_id=uuid4(), parent=parent, level=level, environment=environment)
        for id, parent, level, environment in places
    }


@pytest.mark.parametrize(
    ("nodes", "fault"),
    [
        (tree((1, None, 1, 1)), None),
        (tree((2, 1, 2, 1), (1, None, 1, 1)), None),
        (tree((1, None, 2, 1)), PlacementFault.MISPLACED),
        (tree((2, 1, 3, 1), (1, None, 1, 1)), PlacementFault.MISPLACED),
        (tree((2, 9, 2, 1)), PlacementFault.ORPHAN),
        (tree((2, 1, 2, 1), (1, None, 1, 7)), PlacementFault.FOREIGN),
        (tree((2, 2, 2, 1)), PlacementFault.CYCLE),
        (tree((2, 1, 2, 1), (1, 2, 1, 1)), PlacementFault.CYCLE),
        (tree((3, 2, 3, 1), (2, 1, 2, 1), (1, 2, 1, 1)), PlacementFault.CYCLE),
        (tree((2, 1, MAX_LEVELS + 1, 1), (1, None, MAX_LEVELS, 1)), PlacementFault.TOO_DEEP),
    ],
)
def test_faults_are_told_apart(nodes: dict[int, Node], fault: PlacementFault | None) -> None:
    """Each way in which a key's place can be wrong has its name."""
    assert find_fault(next(iter(nodes.values())), nodes) == fault
