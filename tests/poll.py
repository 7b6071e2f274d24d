"""Waiting in tests: look again until it is so, or fail with what was awaited."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LOOK_SECONDS = 0.02


def poll(condition: Callable[[], T], deadline: float, what: str, *, every: float = LOOK_SECONDS) -> T:
    """The first true value of `condition` within `deadline` seconds. Raises AssertionError that names `what`."""
    end = time.monotonic() + deadline
    while True:
        if value := condition():
            return value
        if time.monotonic() >= end:
            raise AssertionError(f"not within {deadline} s: {what} (last: {value!r})")
        time.sleep(every)
