"""Counts calls, by operation and key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any


class Calls:
    """Counts of every call that arrived, answered or not."""

    def __init__(self) -> None:
        self._by_operation: Counter[str] = Counter()
        self._by_key: dict[str, Counter[str]] = {}

    def count(self, operation: str, keys: Collection[str]) -> None:
        """Count one call of `operation`, for every key it names."""
        self._by_operation[operation] += 1
        for key in keys:
            self._by_key.setdefault(key, Counter())[operation] += 1

    def clear(self) -> None:
        """Start again from zero."""
        self._by_operation.clear()
        self._by_key.clear()

    def as_json(self) -> dict[str, Any]:
        """`total`, `by_operation` and `by_key` (ARN → operation → count)."""
        return {
            "total": self._by_operation.total(),
            "by_operation": dict(self._by_operation),
            "by_key": {key: dict(counts) for key, counts in self._by_key.items()},
        }
