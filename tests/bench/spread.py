"""How repeated measurements of seconds spread."""

from __future__ import annotations

import math
from collections.abc import Sequence


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile by nearest rank (of fewer than a hundred: the largest), and the largest."""
    ordered = sorted(seconds)
    return {
        "p50": round(_rank(ordered, 0.5), 3),
        "p99": round(_rank(ordered, 0.99), 3),
        "max": round(ordered[-1], 3),
    }


def _rank(ordered: Sequence[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1]
