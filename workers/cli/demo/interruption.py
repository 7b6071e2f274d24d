"""Ctrl-C, SIGTERM and SIGHUP: each ends the demo, wherever it is, and leaves nothing behind.

A handler may run inside a finalizer, where Python drops whatever is raised. So it also leaves a mark, which everything
that takes long looks at.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Set once the user wants the demo to end."""

    def __init__(self) -> None:
        self.came = False
        self._former: dict[int, Any] = {}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raise KeyboardInterrupt as a signal comes; through the handler that was there, if it has one of its own."""
        self._former = {number: signal.getsignal(number) for number in ENDING}
        hook, sys.unraisablehook = sys.unraisablehook, _quietly(sys.unraisablehook)
        try:
            with handled(self._handle):
                yield
        finally:
            sys.unraisablehook = hook

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal came and was lost."""
        if self.came:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        former = self._former.get(number)
        if callable(former):
            former(number, frame)
        else:
            raise KeyboardInterrupt


@contextmanager
def handled(handler: signal._HANDLER) -> Iterator[None]:
    """Set `handler` for all of them, and then what was there before."""
    before = {number: signal.signal(number, handler) for number in ENDING}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _quietly(hook: Any) -> Any:
    """Finish without a word: a finalizer that an interrupt went through is no news."""

    def tell(lost: Any) -> None:
        if lost.exc_type is not KeyboardInterrupt:
            hook(lost)

    return tell
