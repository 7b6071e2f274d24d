"""Read model of one environment, shared by the CLI and the dashboard. Read-only."""

from __future__ import annotations

from typing import Any

from workers.monitoring.repack_report import repack_json
from workers.store import environments, repacks
from workers.store.database import Connection
from workers.store.environments import Environment


def view_environment(connection: Connection, environment: Environment, *, count: bool = True) -> dict[str, Any]:
    """Read an environment with its tops, its newest repack and, if wanted, its keys by kind and level."""
    tops = environments.all_tops(connection, environment.id)
    newest = repacks.latest_repack(connection, environment.id)
    view: dict[str, Any] = {
        "id": str(environment.environment_id),
        "workspace": environment.workspace,
        "name": environment.name,
        "main_key": environments.live_tops(connection, environment.id)[0].main_key,
        "lock": environment.lock_cause,
        "lock_detail": environment.lock_detail,
        "locked_at": environment.locked_at,
        "created_at": environment.created_at,
        "repack": repack_json(newest, str(environment)) if newest else None,
    }
    if count:
        counts = environments.count_keys(connection, environment.id)
        view["keys"] = {kind: {str(level): keys for level, keys in levels.items()} for kind, levels in counts.items()}
        view["tops"] = [{name: top[name] for name in top if name != "environment"} for top in tops]
    return view
