"""Numbers, times and plain lines as people read them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from schemas.states import Stage
from workers.cli.output import console, duration, facts, moment, table
from workers.cli.progress_bars import Bars, plain_line
from workers.monitoring.progress import DONE, RUNNING, WAITING, StageView


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "unknown"), (0.04, "0.0 s"), (9.94, "9.9 s"), (42.4, "42 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations_are_said_as_one_would(seconds: float | None, text: str) -> None:
    """Tenths where they matter, hours where they do."""
    assert duration(seconds) == text


def test_a_moment_names_its_zone() -> None:
    """UTC; nothing for what has not happened."""
    assert moment(0) == "1970-01-01 00:00:00 UTC"
    assert moment(None) == ""


def test_tables_in_a_pipe_are_not_folded(capsys: pytest.CaptureFixture[str]) -> None:
    """A row is a line, without blanks at its end, and markup in a cell is text."""
    long = "x" * 300
    console().print(table(["a", "b ", "c"], [(long, 1, "[bold]"), ("y", 22, "")]))
    lines = capsys.readouterr().out.splitlines()
    assert [len(line.split()) for line in lines] == [3, 3, 2]
    assert lines[1] == f"{long}   1  [bold]"
    assert lines[2] == "y" + " " * 301 + "22"


def test_facts_that_are_empty_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """Zero is a fact."""
    console().print(facts([("a", None), ("b", ""), ("c", 0)]))
    assert capsys.readouterr().out == "c  0\n"


def view(state: str, **values: int | float) -> StageView:
    """A renewal of 100 keys."""
    base = {"stage": Stage.RENEW, "level": 1, "expected": 100, "shards": 1}
    return StageView(**base | values, state=state)  # type: ignore[arg-type]


def test_a_plain_line_has_rate_and_time_left() -> None:
    """For a log that is read later."""
    line = plain_line(view(RUNNING, seen=50, rate=10.0, seconds_left=5.0))
    assert line.split() == ["renew", "1", "50%", "50", "of", "100", "keys", "10", "keys/s", "5.0", "s", "left"]


def test_plain_lines_are_said_once_and_not_for_what_waits() -> None:
    """The end of a stage is always told, its middle once a second."""
    file = io.StringIO()
    with Bars(Console(file=file, width=200)) as bars:
        bars.show([view(WAITING)])
        bars.show([view(RUNNING, seen=10)])
        bars.show([view(RUNNING, seen=20)])
        for _ in range(3):
            bars.show([view(DONE, seen=100, seconds=1.0)])
    assert [line.split()[2] for line in file.getvalue().splitlines()] == ["10%", "100%"]


def test_bars_are_drawn_in_a_terminal() -> None:
    """The same stages, as bars."""
    file = io.StringIO()
    with Bars(Console(file=file, width=120, force_terminal=True)) as bars:
        bars.show([view(RUNNING, seen=50, rate=10.0, seconds_left=5.0), view(WAITING)], last=True)
    assert "━" in file.getvalue()
    assert "5.0 s left" in file.getvalue()
    assert "waiting" in file.getvalue()
