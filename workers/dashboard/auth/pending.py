"""Remembers a browser that was sent to the provider until it comes back; once."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

SECONDS = 600.0
MOST = 1000
"""People on their way at once, at most; who left first is forgotten first."""


@dataclass(slots=True)
class Pending:
    """Safe under threads; `clock` is monotonic."""

    clock: Callable[[], float]
    _kept: dict[str, tuple[float, dict[str, Any]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, value: dict[str, Any]) -> str:
        """Keep a value for a browser; return what the browser gets, to be known by."""
        identifier = secrets.token_urlsafe(32)
        with self._lock:
            while len(self._kept) >= MOST:
                del self._kept[next(iter(self._kept))]
            self._kept[identifier] = (self.clock(), value)
        return identifier

    def take(self, identifier: str) -> dict[str, Any]:
        """Take what was kept under it; nothing if it is too old, or was taken before."""
        with self._lock:
            at, value = self._kept.pop(identifier, (0.0, {}))
        return value if self.clock() - at <= SECONDS else {}
