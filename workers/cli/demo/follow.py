"""Follows repacks to their end, with bars; polls often, and lets observers see each poll."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from schemas.states import Mode, RepackState
from workers.cli.demo.scene import DemoFailed, Scene
from workers.cli.progress_bars import Bars
from workers.monitoring.progress import StageView, laid_over, outline, stage_views
from workers.store.environments import Environment, count_keys
from workers.store.inbox import list_rejected
from workers.store.repacks import Repack, latest_repack
from workers.store.shards import Progress, progress
from workers.store.types import read_clock

STALL_SECONDS = 45.0
"""Without any progress for that long, something is wrong: leases are 4 s, the sweeper comes every second."""

LOOK_SECONDS = 0.1
CLOSE_LOOK_SECONDS = 0.01
"""Seconds between two polls; the shorter one where a moment must not be missed."""

Look = Callable[[list[Repack]], bool]
"""Called with the repacks so far at every poll; whether it waits for a moment that must not be missed."""


class Follower:
    """Waits for the next repack of each of some environments, and follows them all to their end."""

    def __init__(self, scene: Scene, environments: Sequence[Environment], *, mode: Mode) -> None:
        """Make it before the events are published."""
        self._scene, self._environments = scene, environments
        with scene.services.database.read() as connection:
            newest = [latest_repack(connection, environment.id) for environment in environments]
            counts = [count_keys(connection, environment.id) for environment in environments]
        self._before = {repack.id for repack in newest if repack is not None}
        self._ahead = _added([outline(mode, count) for count in counts])
        self._seen: tuple[object, ...] = ()
        self._moved_at = time.monotonic()

    def follow(self, look: Look = lambda _: False) -> list[Repack]:
        """Follow the repacks until all of them have ended. Raises DemoFailed if one is refused, gets stuck or ends
        otherwise.
        """
        with Bars(self._scene.console) as bars:
            while True:
                self._scene.interruption.check()
                repacks, stages = self._read()
                is_close = look(repacks)
                done = len(repacks) == len(self._environments) and not any(repack.is_open for repack in repacks)
                bars.show(stages, last=done)
                if done:
                    break
                self._require_progress(repacks, stages)
                time.sleep(CLOSE_LOOK_SECONDS if is_close else LOOK_SECONDS)
        for repack in repacks:
            if repack.state != RepackState.FINISHED:
                raise DemoFailed("A repack did not finish.", f"Repack {repack.repack_id} is {repack.state.value}.")
        return repacks

    def _read(self) -> tuple[list[Repack], list[StageView]]:
        parts: list[Progress] = []
        with self._scene.services.database.read() as connection:
            newest = [latest_repack(connection, environment.id) for environment in self._environments]
            repacks = [repack for repack in newest if repack is not None and repack.id not in self._before]
            for repack in repacks:
                parts += progress(connection, repack.id)
            stages = stage_views(parts, now=read_clock(connection))
        return repacks, laid_over(self._ahead, _at_least(stages, self._ahead))

    def _require_progress(self, repacks: Sequence[Repack], stages: Sequence[StageView]) -> None:
        seen = (*((repack.id, repack.state) for repack in repacks), *((stage.seen, stage.batches) for stage in stages))
        if seen != self._seen:
            self._seen, self._moved_at = seen, time.monotonic()
        elif time.monotonic() - self._moved_at > STALL_SECONDS:
            blocked = next((repack.block_detail for repack in repacks if repack.block_detail), None)
            raise DemoFailed(f"Nothing has moved for {STALL_SECONDS:.0f} s.", blocked or self._last_words())
        if not repacks:
            self._require_acceptance()

    def _require_acceptance(self) -> None:
        with self._scene.services.database.read() as connection:
            rejected = list_rejected(connection, limit=1)
        if rejected:
            raise DemoFailed("An event was rejected.", f"{rejected[0]['code']}: {rejected[0]['why']}")

    def _last_words(self) -> str:
        running = self._scene.supervisor.running()
        return f"Up are {', '.join(running)}."


def _added(outlines: Sequence[Sequence[StageView]]) -> list[StageView]:
    """Add the outlines of several repacks up to one."""
    sums: dict[tuple[str, int], StageView] = {}
    for stages in outlines:
        for stage in stages:
            former = sums.get((stage.stage, stage.level))
            expected = stage.expected + (former.expected if former else 0)
            sums[stage.stage, stage.level] = StageView(
                stage=stage.stage, level=stage.level, state=stage.state, expected=expected
            )
    return list(sums.values())


def _at_least(stages: Sequence[StageView], ahead: Sequence[StageView]) -> list[StageView]:
    """Enlarge a stage that some of the repacks have not come to yet: it is larger than what is planned of it."""
    from dataclasses import replace

    whole = {(stage.stage, stage.level): stage.expected for stage in ahead}
    grown = []
    for stage in stages:
        expected = max(stage.expected, whole.get((stage.stage, stage.level), 0))
        is_whole = stage.stage == "shred" or stage.seen >= whole.get((stage.stage, stage.level), 0)
        state = stage.state if is_whole else "running"
        left = (expected - stage.seen) / stage.rate if stage.rate and state == "running" else stage.seconds_left
        grown.append(replace(stage, expected=expected, state=state, seconds_left=left))
    return grown
