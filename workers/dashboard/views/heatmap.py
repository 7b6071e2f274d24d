"""Shards as a picture: a cell each, coloured by how far it is; by stage and level, in the order they are walked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from workers.store.shards import CLOSED, DONE, LEASED

MOST = 600
"""Cells a row group is drawn with at most: where there are more shards, one cell stands for several."""

LOST = "lost"
"""A lease that ran out: its worker died, and another one takes the shard over."""


def heat_map(shards: Iterable[Mapping[str, Any]], *, now: float) -> list[dict[str, Any]]:
    """Group shards by stage and level: {stage, level, shards, per_cell, cells: [{state, fraction, seen, owner}]}."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for shard in shards:
        groups.setdefault((shard["stage"], shard["level"]), []).append(shard)
    return [_group(stage, level, found, now) for (stage, level), found in groups.items()]


def _group(stage: str, level: int, shards: list[Mapping[str, Any]], now: float) -> dict[str, Any]:
    size = -(-len(shards) // MOST)
    cells = [_cell(shards[start : start + size], now) for start in range(0, len(shards), size)]
    return {"stage": stage, "level": level, "shards": len(shards), "per_cell": size, "cells": cells}


def _cell(shards: list[Mapping[str, Any]], now: float) -> dict[str, Any]:
    """Merge shards into a cell: the state of the least finished one; how far all of them together are."""
    expected = sum(max(shard["expected"], shard["seen"]) for shard in shards)
    seen = sum(shard["seen"] for shard in shards)
    states = [_state(shard, now) for shard in shards]
    worst = min(states, key=_ORDER.index)
    done = sum(state in (DONE, CLOSED) for state in states)
    fraction = seen / expected if expected else done / len(shards)
    owner = next((shard["owner"] for shard, state in zip(shards, states, strict=True) if state in (LEASED, LOST)), None)
    return {
        "state": worst,
        "fraction": 1.0 if done == len(shards) else round(min(fraction, 0.99), 3),
        "seen": seen,
        "owner": owner,
    }


_ORDER = [LOST, LEASED, "pending", CLOSED, DONE]


def _state(shard: Mapping[str, Any], now: float) -> str:
    if shard["state"] == LEASED and shard["lease_until"] is not None and shard["lease_until"] < now:
        return LOST
    return str(shard["state"])
