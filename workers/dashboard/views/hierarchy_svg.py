"""The hierarchy as a picture: one row per level, from the main key down; how much of each is wrapped under what is in
force.

Plain numbers for a template to draw as SVG: no scripts, no styles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.keys import TopState, VersionState
from schemas.states import Stage
from workers.monitoring.progress import StageView

WIDTH, ROW, BOX, GAP = 640, 92, 56, 16
"""Of the whole picture; from row to row; a box's height; between two boxes of a row."""

_LIVE = (TopState.ACTIVE, TopState.DRAINING)


def draw(
    tops: Sequence[Mapping[str, Any]],
    keys: Mapping[str, Mapping[int, int]],
    versions: Mapping[int, Mapping[str, int]],
    stages: Sequence[StageView],
) -> dict[str, Any]:
    """{width, height, box, rows: [{name, y, boxes: [{x, width, title, text, state, fraction}]}], lines: [{x1, …}]}."""
    rows = [_top_row(tops)]
    wrapping, data = keys.get("wrapping", {}), keys.get("data", {})
    for level in sorted({*wrapping, *data}):
        rows.append(_level_row(level, wrapping.get(level, 0), data.get(level, 0), versions.get(level, {}), stages))
    lines = []
    for number, row in enumerate(rows):
        row["y"] = number * ROW
        _place(row["boxes"])
        if number:
            lines += _lines(rows[number - 1], row)
    return {"width": WIDTH, "height": (len(rows) - 1) * ROW + BOX, "box": BOX, "rows": rows, "lines": lines}


def _top_row(tops: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    live = [top for top in tops if top["state"] in _LIVE]
    boxes = [
        {
            "title": f"main key, {top['main_key'].partition(':')[0]}",
            "text": f"top version {top['version']}, {'in force' if top['state'] == TopState.ACTIVE else 'being left'}",
            "detail": top["main_key"],
            "state": "active" if top["state"] == TopState.ACTIVE else "draining",
            "fraction": 1.0,
            "is_parent": True,
        }
        for top in live
    ]
    return {"name": "main key", "boxes": boxes}


def _level_row(
    level: int, wrapping: int, data: int, versions: Mapping[str, int], stages: Sequence[StageView]
) -> dict[str, Any]:
    boxes = []
    if wrapping:
        draining = versions.get(VersionState.DRAINING, 0)
        boxes.append(
            {
                "title": f"{wrapping:,} wrapping {'key' if wrapping == 1 else 'keys'}",
                "text": f"{draining:,} older versions draining" if draining else "one version each",
                "detail": "",
                "state": "draining" if draining else "active",
                "fraction": _fraction(stages, level, roots=level == 1),
                "is_parent": True,
            }
        )
    if data:
        fraction = _fraction(stages, level - 1 if level > 1 else 1, roots=level == 1)
        boxes.append(
            {
                "title": f"{data:,} data {'key' if data == 1 else 'keys'}",
                "text": f"{fraction:.0%} on the newest version" if fraction < 1 else "on the newest version",
                "detail": "",
                "state": "active" if fraction == 1 else "draining",
                "fraction": fraction,
                "is_parent": False,
            }
        )
    return {"name": f"level {level}", "boxes": boxes}


def _fraction(stages: Sequence[StageView], level: int, *, roots: bool) -> float:
    """Return how far the open repack is with these keys; 1 if none is at work on them."""
    wanted = Stage.MOVE if roots else Stage.RENEW
    found = next((stage for stage in stages if stage.stage == wanted and (roots or stage.level == level)), None)
    return round(found.fraction, 3) if found is not None else 1.0


def _place(boxes: list[dict[str, Any]]) -> None:
    width = (WIDTH - GAP * (len(boxes) - 1)) / max(len(boxes), 1)
    for number, box in enumerate(boxes):
        box["x"], box["width"] = round(number * (width + GAP), 1), round(width, 1)


def _lines(above: Mapping[str, Any], below: Mapping[str, Any]) -> list[dict[str, float]]:
    return [
        {
            "x1": parent["x"] + parent["width"] / 2,
            "y1": above["y"] + BOX,
            "x2": child["x"] + child["width"] / 2,
            "y2": below["y"],
        }
        for parent in above["boxes"]
        if parent["is_parent"]
        for child in below["boxes"]
    ]
