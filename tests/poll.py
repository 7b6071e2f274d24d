"""Waiting in tests: look again until it is so, or fail with what was awaited."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SOON, SELDOM, GROWTH = 0.02, 0.1, 1.1
"""Seconds between the first looks, and between the last: looking takes a core from what is waited for."""


def poll(condition: Callable[[], T], deadline: float, what: str, *, every: float | None = None) -> T:
    """The first true value of `condition` within `deadline` seconds. Raises AssertionError that names `what`.

    `every`: seconds between all looks, for what is over soon.
    """
    end, pause = time.monotonic() + deadline, every or SOON
    while True:
        if value := condition():
            return value
        if time.monotonic() >= end:
            raise AssertionError(f"not within {deadline} s: {what} (last: {value!r})")
        time.sleep(pause)
        pause = every or min(pause * GROWTH, SELDOM)
