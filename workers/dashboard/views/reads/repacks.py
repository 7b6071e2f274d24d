"""Repacks: the list, and one with everything there is to say of it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from schemas.states import ENDED, OPEN, RepackState
from workers.dashboard.routes import Ask, Document, NoQuery
from workers.dashboard.views.heatmap import heat_map
from workers.monitoring.progress import outline, time_left_range
from workers.monitoring.repack_report import RepackView, repack_json, view_repack
from workers.store.environments import find_environment
from workers.store.queries.listings import names_of
from workers.store.repacks import Repack, find_repack, list_repacks
from workers.store.shards import list_shards

PAGE = 50
SHOWN_QUARANTINE, SHOWN_TIMELINE = 200, 200

WHICH: dict[str, frozenset[RepackState]] = {
    "open": OPEN,
    "ended": ENDED,
    **{state.value: frozenset({state}) for state in RepackState},
}


class RepackFilter(NoQuery):
    """Which repacks."""

    state: str = Field(default="", pattern=f"^({'|'.join(WHICH)})?$", description=f"Only these: {', '.join(WHICH)}.")
    environment: str = Field(default="", max_length=200, description="Only of this one: its id, or workspace/name.")
    before: int | None = Field(default=None, ge=1, le=2**62, description="Only those older than this row.")


def repacks(ask: Ask) -> Document:
    """List the newest repacks."""
    query = ask.form
    with ask.site.services.database.read() as connection:
        only = find_environment(connection, query.environment).id if query.environment else None
        found = list_repacks(
            connection, environment=only, states=WHICH.get(query.state), before=query.before, limit=PAGE
        )
        names = names_of(connection, {repack.environment for repack in found})
    return {
        "repacks": [listed(repack, names[repack.environment]) for repack in found],
        "next": found[-1].id if len(found) == PAGE else None,
        "state": query.state,
        "environment": query.environment,
        "states": list(WHICH),
    }


def listed(repack: Repack, environment: str) -> Document:
    """Return what a list says of a repack."""
    return repack_json(repack, environment) | {
        "block": {"side": repack.block_side, "cause": repack.block_cause} if repack.block_side else None,
        "is_open": repack.is_open,
    }


def repack(ask: Ask) -> Document:
    """Read one repack."""
    site = ask.site
    with site.services.database.read() as connection:
        found = find_repack(connection, ask.path["repack"])
        # Counting an environment's keys takes long where there are many: what lies ahead is known a little later.
        counts = site.counts.peek(found.environment) if found.is_open else None
        view = view_repack(connection, found, ahead=outline(found.mode, counts.keys) if counts is not None else ())
        shards = list_shards(connection, found.id)
    return describe(view, shards)


def describe(view: RepackView, shards: list[dict[str, Any]]) -> Document:
    """Build the document of a repack."""
    document = view.as_json()
    found = view.repack
    left = time_left_range(view.stages, shards) if found.is_running else None
    return document | {
        "now": view.now,
        "seconds_left_range": list(left) if left is not None else None,
        "actions": found.legal_actions,
        "is_open": found.is_open,
        "is_running": found.is_running,
        "quarantine": document["quarantine"][:SHOWN_QUARANTINE],
        "timeline": document["timeline"][-SHOWN_TIMELINE:],
        "timeline_records": len(document["timeline"]),
        "certificate": found.certificate,
        "heat_map": heat_map(shards, now=view.now),
    }
