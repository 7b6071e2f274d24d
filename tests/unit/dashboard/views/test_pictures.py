"""The heat map and the picture of the hierarchy."""

from __future__ import annotations

from typing import Any

from schemas.states import Stage
from workers.dashboard.views.heatmap import MOST, heat_map
from workers.dashboard.views.hierarchy_svg import draw
from workers.dashboard.views.rendering import ENVIRONMENT


def shard(state: str, seen: int = 0, **values: Any) -> dict[str, Any]:
    """A row as stored."""
    base = {
        "stage": "renew",
        "level": 1,
        "state": state,
        "expected": 10,
        "seen": seen,
        "owner": "w",
        "lease_until": None,
    }
    return base | values


def test_the_heat_map_has_a_cell_a_shard() -> None:
    """By how far each is; a lease that ran out stands out."""
    shards = [
        shard("done", 10), shard("leased", 5, lease_until=99.0), shard("leased", 5, lease_until=1.0), shard("pending"),
        shard("closed"),
    ]  # fmt: skip
    (group,) = heat_map(shards, now=50.0)
    cells = [(cell["state"], cell["fraction"]) for cell in group["cells"]]
    assert cells == [("done", 1.0), ("leased", 0.5), ("lost", 0.5), ("pending", 0.0), ("closed", 1.0)]


def test_many_shards_share_cells() -> None:
    """As many as can be seen, each as bad as the worst in it."""
    shards = [shard("done", 10) for _ in range(MOST * 3)]
    shards[4] = shard("leased", 2, lease_until=99.0)
    (group,) = heat_map(shards, now=50.0)
    assert (len(group["cells"]), group["per_cell"], group["shards"]) == (MOST, 3, MOST * 3)
    assert [cell["state"] for cell in group["cells"][:3]] == ["done", "leased", "done"]


def test_the_picture_shows_both_main_keys_while_a_move_is_open() -> None:
    """And lines from each parent to each child below it, none from data keys."""
    tops = [
        {"version": 1, "main_key": "managed:", "state": "draining"},
        {"version": 2, "main_key": "aws-kms:x", "state": "active"},
        {"version": 0, "main_key": "old:", "state": "retired"},
    ]
    picture = draw(tops, {"wrapping": {1: 2}, "data": {1: 1, 2: 1234}}, {1: {"draining": 1}}, [])
    top, first, second = picture["rows"]
    assert [box["state"] for box in top["boxes"]] == ["draining", "active"]
    assert [box["title"] for box in first["boxes"] + second["boxes"]] == [
        "2 wrapping keys",
        "1 data key",
        "1,234 data keys",
    ]
    assert len(picture["lines"]) == 2 * 2 + 1
    assert all(
        box["x"] >= 0 and box["x"] + box["width"] <= picture["width"] for row in picture["rows"] for box in row["boxes"]
    )


def test_every_state_of_a_repack_has_a_mark_and_a_tone() -> None:
    """A state is said by a mark and a word; colour only helps."""
    from schemas.states import RepackState

    ui = ENVIRONMENT.globals["ui"]
    for state in RepackState:
        assert state.value in ui.tones
        html = str(ui.badge(state))
        assert state.value.replace("_", " ") in html
        assert 'aria-hidden="true"' in html
    assert set(ui.tones.values()) <= set(ui.marks)
    assert Stage.MOVE
