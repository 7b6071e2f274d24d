"""Read models: rates, time left, what lies ahead, what may be done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from schemas.states import Mode, RepackState, Stage
from workers.monitoring.progress import (
    DONE,
    RUNNING,
    WAITING,
    laid_over,
    outline,
    stage_views,
    time_left,
    time_left_range,
)
from workers.monitoring.repack_report import MEANING
from workers.store.repacks import Repack
from workers.store.shards import Progress

NOW = 1000.0
COUNTS = {"wrapping": {1: 3, 2: 6}, "data": {1: 2, 2: 30, 3: 600}}


def progress(**values: Any) -> Progress:
    """The sums of a stage's shards: nothing done, but for what is given."""
    zero = dict.fromkeys(
        ("rewrapped", "already_current", "quarantined", "minted", "shredded", "kms_calls", "batches", "takeovers"), 0
    )
    base: dict[str, Any] = zero | {
        "stage": Stage.RENEW, "level": 1, "shards": 2, "done": 0, "leased": 1, "expected": 100, "seen": 0,
        "started_at": None, "checkpointed_at": None, "finished_at": None,
    }  # fmt: skip
    return Progress(**base | values)


def repack(**values: Any) -> Repack:
    """A deep repack that moves."""
    base: dict[str, Any] = dict.fromkeys(Repack.__slots__) | {
        "id": 1, "repack_id": uuid4(), "mode": Mode.DEEP, "state": RepackState.MOVING, "stage": Stage.MOVE, "level": 1,
    }  # fmt: skip
    return Repack(**base | values)


def test_a_rate_is_keys_over_the_time_since_the_first_claim() -> None:
    """Half of 100 keys in 5 seconds: 10 a second, 5 seconds left."""
    view = stage_views([progress(seen=50, started_at=NOW - 5)], now=NOW)[0]
    assert (view.state, view.rate, view.seconds_left, view.fraction) == (RUNNING, 10, 5, 0.5)


def test_without_a_key_there_is_no_rate() -> None:
    """Unknown is not zero."""
    view = stage_views([progress()], now=NOW)[0]
    assert (view.rate, view.seconds_left, view.fraction) == (None, None, 0)


def test_a_stage_that_is_done_keeps_the_rate_it_had() -> None:
    """Time that passes afterwards does not slow it down."""
    done = progress(done=2, seen=100, started_at=NOW - 50, finished_at=NOW - 40)
    view = stage_views([done], now=NOW)[0]
    assert (view.state, view.rate, view.seconds, view.seconds_left, view.fraction) == (DONE, 10, 10, None, 1)


def test_a_paused_stage_stands_still() -> None:
    """Its rate is that up to its last checkpoint; nothing is left to wait for."""
    view = stage_views([progress(seen=50, started_at=NOW - 100, checkpointed_at=NOW - 95)], now=NOW, running=False)[0]
    assert (view.rate, view.seconds_left) == (10, None)


def test_late_keys_make_a_stage_larger_than_planned() -> None:
    """More seen than expected is not more than all of it, and not done before its shards are."""
    view = stage_views([progress(seen=120, started_at=NOW - 1)], now=NOW)[0]
    assert (view.expected, view.fraction, view.seconds_left) == (120, 0.999, 0)


def test_several_repacks_are_shown_as_one() -> None:
    """Sums of counts over the earliest start."""
    parts = [progress(seen=10, started_at=NOW - 10, takeovers=1), progress(seen=40, started_at=NOW - 5)]
    view = stage_views(parts, now=NOW)[0]
    assert (view.seen, view.expected, view.rate, view.takeovers, view.shards) == (50, 200, 5, 1, 4)


def test_shredding_is_measured_in_shards() -> None:
    """It sees keys only where somebody was late."""
    view = stage_views([progress(stage=Stage.SHRED, done=1)], now=NOW)[0]
    assert view.fraction == 0.5


def test_a_deep_repack_goes_down_and_up_again() -> None:
    """Move, renew from the top, shred from the bottom; each with the keys that it will see."""
    stages = outline(Mode.DEEP, COUNTS)
    assert [(stage.name, stage.expected) for stage in stages] == [
        ("move", 5), ("renew 1", 30), ("renew 2", 600), ("shred 2", 6), ("shred 1", 3),
    ]  # fmt: skip
    assert {stage.state for stage in stages} == {WAITING}


def test_a_shallow_repack_is_its_move() -> None:
    """Nothing below the roots."""
    assert [stage.name for stage in outline(Mode.SHALLOW, COUNTS)] == ["move"]


def test_an_environment_without_keys_has_an_outline() -> None:
    """An empty move."""
    assert [(stage.name, stage.expected) for stage in outline(Mode.DEEP, {})] == [("move", 0)]


def test_what_is_known_lies_over_what_lies_ahead() -> None:
    """In the order in which it happens; what nobody foresaw comes last."""
    seen = stage_views([progress(seen=1, started_at=NOW - 1), progress(level=7)], now=NOW)
    names = [(stage.name, stage.state) for stage in laid_over(outline(Mode.DEEP, COUNTS), seen)]
    assert names == [
        ("move", WAITING), ("renew 1", RUNNING), ("renew 2", WAITING), ("shred 2", WAITING), ("shred 1", WAITING),
        ("renew 7", RUNNING),
    ]  # fmt: skip


def test_the_time_left_counts_levels_that_are_not_planned_yet() -> None:
    """10 keys a second, 15 of this level and 600 of the next."""
    seen = stage_views([progress(expected=30, seen=15, started_at=NOW - 1.5)], now=NOW)
    ahead = [stage for stage in outline(Mode.DEEP, COUNTS) if stage.stage != Stage.MOVE]
    assert time_left(laid_over(ahead, seen)) == pytest.approx(61.5)


def test_the_time_left_is_unknown_without_a_rate_and_nothing_without_keys() -> None:
    """Before the first batch, and after the last."""
    assert time_left(outline(Mode.DEEP, COUNTS)) is None
    assert time_left([replace(stage, state=DONE) for stage in outline(Mode.DEEP, COUNTS)]) == 0


def shard(rate: float) -> dict[str, Any]:
    """A finished shard's row, of 100 keys."""
    return {"seen": 100, "started_at": NOW - 100 / rate, "finished_at": NOW}


def test_the_time_left_is_a_range_as_wide_as_shards_differ() -> None:
    """Wide while little is known; never narrower than a tenth to each side; unknown where there is no rate."""
    stages = stage_views([progress(seen=50, started_at=NOW - 5)], now=NOW)
    assert time_left_range(stages, []) == (2.5, 7.5)
    assert time_left_range(stages, [shard(10)] * 8) == (4.5, 5.5)
    low, high = time_left_range(stages, [shard(rate) for rate in (8, 8, 8, 12, 12, 12)]) or (0, 0)
    assert (low, high) == (pytest.approx(4), pytest.approx(6))
    assert time_left_range(stage_views([progress()], now=NOW), []) is None


def test_every_state_has_a_meaning() -> None:
    """No state is left unexplained."""
    assert MEANING.keys() == set(RepackState)


@pytest.mark.parametrize(
    ("values", "actions"),
    [
        ({}, ["pause", "abort"]),
        ({"state": RepackState.RENEWING, "stage": Stage.RENEW, "move_closed_at": NOW}, ["pause", "stop"]),
        ({"state": RepackState.PAUSED}, ["resume", "abort"]),
        ({"state": RepackState.BLOCKED, "stage": Stage.RENEW, "move_closed_at": NOW}, ["pause", "resume", "stop"]),
        ({"state": RepackState.FINISHED_WITH_QUARANTINE, "move_closed_at": NOW}, ["retry"]),
        ({"state": RepackState.FINISHED}, []),
        ({"state": RepackState.ABORTED}, []),
    ],
)
def test_what_may_be_done_is_what_is_legal(values: dict[str, Any], actions: list[str]) -> None:
    """By the table of moves, and by whether the move has closed."""
    assert repack(**values).legal_actions == actions
