"""Kills one worker with SIGKILL while it holds a lease, and watches what becomes of its shard."""

from __future__ import annotations

import os
from typing import Any

from schemas.states import Stage
from workers.cli.demo.scene import WORKERS, Scene
from workers.store.shards import LEASED, list_shards

TRIES = 3
"""A shard may end between the poll and the signal: then the next one is waited for."""


class Killer:
    """Checks at every poll whether its moment has come; `kills` says how often it struck, `held` whether a lease was in
    hand.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._victim: tuple[str, int] | None = None
        self.kills = 0
        self.held = False

    @property
    def is_armed(self) -> bool:
        """Return True if it still waits for its moment."""
        return not self.held and self.kills < TRIES and self._victim is None

    def look(self, repacks: list[int]) -> None:
        """Strike as soon as a worker holds a shard of the renewal; later, print when it is up again."""
        if self._victim is not None:
            self._tell_return()
        if not self.is_armed:
            return
        shard = next((row for row in self._leased(repacks) if row["stage"] == Stage.RENEW), None)
        name = _worker_of(self._scene, shard["owner"]) if shard is not None else None
        if shard is None or name is None:
            return
        pid = self._scene.supervisor.kill(name)
        self.kills += 1
        self._victim = (name, pid)
        after = next((row for row in self._leased(repacks) if row["id"] == shard["id"]), None)
        self.held = after is not None and after["owner"] == shard["owner"]
        what = f"while it held shard {shard['id']} ({shard['stage']} {shard['level']})"
        self._scene.console.print(
            f"[bold red]3[/]  {name} (process group {pid}) was killed with SIGKILL "
            f"{what if self.held else 'between two shards'}; the run goes on"
        )

    def _leased(self, repacks: list[int]) -> list[dict[str, Any]]:
        with self._scene.services.database.read() as connection:
            return [row for repack in repacks for row in list_shards(connection, repack) if row["state"] == LEASED]

    def _tell_return(self) -> None:
        assert self._victim is not None
        name, former = self._victim
        pid = self._scene.supervisor.pid(name)
        if pid is not None and pid != former:
            self._scene.console.print(f"   the supervisor has started {name} again (process {pid})")
            self._victim = None


def _worker_of(scene: Scene, owner: str) -> str | None:
    """Find the worker whose pool child this owner (host:pid:…) is: it leads the child's process group."""
    try:
        group = os.getpgid(int(owner.split(":")[1]))
    except ProcessLookupError:
        return None
    return next((name for name in WORKERS if scene.supervisor.pid(name) == group), None)
