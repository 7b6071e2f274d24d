"""Waiting in tests: look again until it is so, or fail with what was awaited.

A deadline is what the thing takes at most on an idle machine. On one that others share it is stretched, so that a test
tells of the product and not of its neighbours; a test that passes never waits longer for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LOOK_SECONDS = 0.02

PIECE_OF_WORK, PIECE_SECONDS = 1_000_000, 0.1
"""A loop of so many steps takes at most so long on an idle machine of today."""

MOST_STRETCHED = 8.0


def poll(condition: Callable[[], T], deadline: float, what: str, *, every: float = LOOK_SECONDS) -> T:
    """Return the first true value of `condition` within `deadline` seconds. Raises AssertionError that names `what`."""
    begun = time.monotonic()
    while True:
        if value := condition():
            return value
        waited = time.monotonic() - begun
        if waited >= deadline and waited >= stretched(deadline):
            raise AssertionError(f"not within {waited:.0f} s: {what} (last: {value!r})")
        time.sleep(every)


def stretched(seconds: float) -> float:
    """Return what `seconds` of an idle machine are here and now: by the load of its cores, and by their speed."""
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    return seconds * min(MOST_STRETCHED, max(1.0, load, _piece_of_work() / PIECE_SECONDS))


def _piece_of_work() -> float:
    begun = time.monotonic()
    for _ in range(PIECE_OF_WORK):
        pass
    return time.monotonic() - begun
