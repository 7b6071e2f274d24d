"""Formats figures for people: amounts, moments, durations; the same in a terminal and on a page."""

from __future__ import annotations

from datetime import UTC, datetime


def amount(value: float) -> str:
    """Format a number such as 1,234,567."""
    return f"{value:,.0f}"


def moment(seconds: float | None) -> str:
    """Format a time such as 2031-05-06 07:08:09 UTC; empty for None."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC" if seconds is not None else ""


def duration(seconds: float | None) -> str:
    """Format a duration such as 0.8 s, 42 s, 3 min 05 s, 2 h 10 min; "unknown" for None."""
    if seconds is None:
        return "unknown"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
