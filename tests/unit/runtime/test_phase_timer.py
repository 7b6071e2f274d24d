"""The stopwatch: where a worker's time goes, by phase."""

from __future__ import annotations

from workers.runtime.phase_timer import PhaseTimer


def test_laps_sum_up_to_the_whole() -> None:
    """Every moment since the start belongs to one phase, and a phase that comes again is added to."""
    moments = iter([10.0, 11.0, 14.0, 14.5, 20.0])
    timer = PhaseTimer(lambda: next(moments))
    for phase in ("read", "wrap", "read", "commit"):
        timer.lap(phase)
    assert timer.spent() == {"read": 1.5, "wrap": 3.0, "commit": 5.5}


def test_what_was_told_is_no_longer_written_to() -> None:
    """The seconds given out stay as they were."""
    moments = iter([0.0, 1.0, 2.0])
    timer = PhaseTimer(lambda: next(moments))
    timer.lap("read")
    told = timer.spent()
    timer.lap("read")
    assert told == {"read": 1.0}
