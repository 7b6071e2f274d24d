"""Environments: the list, one with its hierarchy, and what a replacement of its main key would come to."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from schemas.keys import MainKeyUri
from schemas.states import Mode
from workers.dashboard.live.counts import KeyCounts
from workers.dashboard.routes import Ask, Document, NoQuery
from workers.dashboard.views.hierarchy_svg import draw
from workers.dashboard.views.reads.audits import record_json
from workers.dashboard.views.reads.repacks import listed
from workers.errors import NotFound
from workers.monitoring.progress import stage_views
from workers.repack.dry_run import forecast
from workers.repack.replacement_interval import next_replacement
from workers.services import Services
from workers.store import main_keys
from workers.store.environments import Environment, all_tops, find_environment, get_environment, is_id
from workers.store.queries.inventory import environment_roots
from workers.store.queries.listings import Standing, list_standings, search_audit
from workers.store.repacks import latest_repack, list_repacks
from workers.store.shards import progress
from workers.store.types import read_clock

PAGE = 50
RECENT = 10


class EnvironmentFilter(NoQuery):
    """Which environments."""

    text: str = Field(default="", max_length=200, description="Part of workspace/name, or an id.")
    lock: str = Field(
        default="", pattern="^(none|any|revoked|restricted|lost)?$", description="none, any, or the cause of a lock."
    )
    after: str = Field(default="", max_length=200, description="Only those after this workspace/name.")


class ReplacementPreview(NoQuery):
    """What the main key would be replaced by."""

    main_key: str = Field(default="", max_length=512, description="URI of the new main key; empty: nothing is tried.")
    mode: Mode = Field(default=Mode.DEEP, description="deep renews every wrapping key below; shallow moves the roots.")
    override: bool = Field(default=False, description="Whether the interval between replacements is to be left out.")


def environments(ask: Ask) -> Document:
    """Environments by workspace and name."""
    query = ask.form
    workspace, slash, name = query.after.partition("/")
    with ask.site.services.database.read() as connection:
        now = read_clock(connection)
        found = list_standings(
            connection, text=query.text, lock=query.lock, after=(workspace, name) if slash else None, limit=PAGE
        )
    return {
        "now": now,
        "environments": [_standing(one) for one in found],
        "next": str(found[-1].environment) if len(found) == PAGE else None,
        "text": query.text,
        "lock": query.lock,
    }


def _standing(one: Standing) -> Document:
    environment = one.environment
    return {
        "id": str(environment.environment_id),
        "workspace": environment.workspace,
        "name": environment.name,
        "main_key": one.main_key,
        "generation": one.generation,
        "lock": environment.lock_cause,
        "lock_detail": environment.lock_detail,
        "locked_at": environment.locked_at,
        "repack": listed(one.repack, str(environment)) if one.repack is not None else None,
    }


def environment(ask: Ask) -> Document:
    """Read one environment: lock, main keys so far, keys by level, its hierarchy as a picture, its newest records."""
    site = ask.site
    interval = site.services.settings.replacement_interval
    with site.services.database.read() as connection:
        found = find_environment(connection, environment_of(ask))
        counts = site.counts.peek(found.id)
        tops = all_tops(connection, found.id)
        newest = latest_repack(connection, found.id)
        now = read_clock(connection)
        parts = progress(connection, newest.id) if newest is not None and newest.is_open else []
        active = next(top for top in reversed(tops) if top["state"] == "active")
        record = main_keys.find(connection, active["main_key"])
        next_at = next_replacement(connection, found, interval=interval) if interval else None
        records, _ = search_audit(connection, environment_id=found.environment_id, limit=RECENT)
        past = list_repacks(connection, environment=found.id, limit=RECENT)
        roots = environment_roots(connection, found.id)
    stages = stage_views(parts, now=now)
    return {
        "now": now,
        "id": str(found.environment_id),
        "workspace": found.workspace,
        "name": found.name,
        "created_at": found.created_at,
        **_lock(found),
        "main_key": active["main_key"],
        "generation": active["generation"],
        "looked": _looked(record),
        "cache_ttl": site.services.settings.cache_ttl,
        "next_replacement": next_at if next_at is not None and next_at > now else None,
        "tops": [{name: top[name] for name in top if name != "environment"} for top in reversed(tops)],
        "roots": [{"generation": generation, "roots": number} for generation, number in roots.items()],
        "keys": _by_level(counts),
        "counted_at": counts.counted_at if counts is not None else None,
        "repack": listed(newest, str(found)) if newest is not None else None,
        "repacks": [listed(repack, str(found)) for repack in past],
        "records": [record_json(one) for one in records],
        "picture": draw(tops, counts.keys if counts else {}, counts.versions if counts else {}, stages),
    }


def _lock(found: Environment) -> Document:
    return {
        "lock": found.lock_cause,
        "lock_detail": found.lock_detail,
        "locked_at": found.locked_at,
        "epoch": found.epoch,
    }


def environment_of(ask: Ask) -> str:
    """Find the environment named in a path: its id, and nothing else."""
    reference = ask.path["environment"]
    if not is_id(reference):
        raise NotFound("environment", reference[:64], "Name it by its id.")
    return reference


def replace(ask: Ask) -> Document:
    """Work out what a replacement of the main key would come to; nothing is changed."""
    services, query = ask.site.services, ask.form
    with services.database.read() as connection:
        found = find_environment(connection, environment_of(ask))
        active = all_tops(connection, found.id)[-1]
        tops = [top for top in all_tops(connection, found.id) if top["state"] == "active"]
        interval = services.settings.replacement_interval
        next_at = next_replacement(connection, found, interval=interval) if interval else None
        is_early = next_at is not None and read_clock(connection) < next_at
    document = {
        "id": str(found.environment_id),
        "workspace": found.workspace,
        "name": found.name,
        "in_force": (tops or [active])[-1]["main_key"],
        "main_key": query.main_key,
        "mode": query.mode.value,
        "override": query.override,
        "next_replacement": next_at if is_early else None,
        "forecast": None,
    }
    if query.main_key:
        target = MainKeyUri.parse(query.main_key)
        document["forecast"] = forecast(services, found, target, query.mode, overridden=query.override).as_json()
    return document


def reread(services: Services, environment_id: str) -> Document:
    """Read an environment again after it was changed."""
    with services.database.read() as connection:
        found = get_environment(connection, find_environment(connection, environment_id).id)
    return {"id": str(found.environment_id), "workspace": found.workspace, "name": found.name, "lock": found.lock_cause}


def _looked(record: main_keys.MainKeyRecord | None) -> Document | None:
    """Return what was last seen of its main key."""
    if record is None:
        return None
    return {
        "generation": record.generation,
        "cause": record.cause,
        "detail": record.detail,
        "since": record.since,
        "last_looked_at": record.last_looked_at,
        "last_answered_at": record.last_answered_at,
        "next_look_at": record.next_look_at,
        "hides_generation": record.hides_generation,
    }


def _by_level(counts: KeyCounts | None) -> dict[str, Any] | None:
    if counts is None:
        return None
    return {kind: {str(level): number for level, number in levels.items()} for kind, levels in counts.keys.items()}
