"""A worker whose clock is an hour off changes nothing: what machines agree on is told by the database."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.stack import ON_POSTGRESQL, PATIENCE, WORKERS, Stack
from workers.celery_app.config import HANDLE_EVENT, WALK
from workers.store.shards import list_shards

pytestmark = pytest.mark.acceptance

AHEAD, BEHIND = 3600, -3600
SHIFTED = Path(__file__).parent / "shifted"


def _shifted(seconds: int) -> dict[str, str]:
    return {"PYTHONPATH": str(SHIFTED), "KEYREPACK_TEST_CLOCK_OFF": str(seconds)}


@ON_POSTGRESQL
def test_a_repack_by_workers_and_a_beat_whose_clocks_are_off(stack: Stack) -> None:
    """One worker an hour ahead, one an hour behind, as beat is: no lease is lost, and no wake-up is too old.

    Both take part, each key is rewrapped once, and the sweeps of that beat are answered.
    """
    seeded = stack.seed(data=4800)
    shifts = dict(zip(WORKERS, (AHEAD, BEHIND), strict=True)) | {"beat": BEHIND}
    for name in shifts:
        stack.kill(name)
    try:
        for name, by in shifts.items():
            stack.start(name, env=_shifted(by))
        stack.replace(seeded.environment, str(stack.simulator.create_main_key()))
        repack = stack.ended(seeded.environment)
        stack.check_deep(seeded, repack, takeovers=0)
        with stack.services.database.read() as connection:
            owners = {row["owner"].split(":")[-2] for row in list_shards(connection, repack.id)}
        assert len(owners) == len(WORKERS)
        stack.wait_for(lambda: stack.log_lines("sweep.finished"), PATIENCE, "a sweep of this beat was answered")
        told = {abs(line["seconds"]) for line in stack.log_lines("clock.is_off")}
        assert told
        assert told <= {3599, 3600, 3601}
        lines = [line for text in stack.logs().values() for line in text.splitlines() if "Discarding revoked" in line]
        assert not [line for line in lines if WALK in line or HANDLE_EVENT in line]
    finally:
        for name in shifts:
            stack.kill(name)
