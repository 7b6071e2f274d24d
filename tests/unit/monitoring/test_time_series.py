"""Rates of the last hour, in memory that does not grow."""

from __future__ import annotations

import pytest

from workers.monitoring.time_series import HOUR, SAMPLE_SECONDS, Series


def test_a_rate_is_what_was_added_over_the_time() -> None:
    """Over the last minute, or over what there is; one look makes none."""
    series = Series()
    assert series.rate(60) is None
    series.add(0, 100)
    assert series.rate(60) is None
    series.add(10, 600)
    assert series.rate(60) == 50
    series.add(100, 600)
    assert series.rate(60) == 0, "nothing was added in the last minute"


def test_an_hour_is_kept_and_no_more() -> None:
    """However often and however long one looks."""
    series = Series()
    for second in range(3 * int(HOUR)):
        series.add(second, second * 7)
    points = series.points()
    assert len(points) <= HOUR / SAMPLE_SECONDS + 1
    assert points[-1][0] - points[0][0] == pytest.approx(HOUR, abs=2 * SAMPLE_SECONDS)
    assert {rate for _, rate in points} == {7}


def test_a_count_that_fell_begins_anew() -> None:
    """Another database: a rate below nothing is none."""
    series = Series()
    series.add(0, 1000)
    series.add(10, 5)
    assert (series.rate(60), series.points()) == (None, [])
    series.add(20, 15)
    assert series.rate(60) == 1


def test_a_clock_that_stands_still_adds_nothing() -> None:
    """Two looks at one moment are one."""
    series = Series()
    series.add(5, 1)
    series.add(5, 2)
    assert series.rate(60) is None
