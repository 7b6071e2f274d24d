"""Rotates a key's material: by its schedule, or on demand."""

from __future__ import annotations

from dataclasses import dataclass

from workers.embedded.simulator.clock import DAY
from workers.embedded.simulator.material import Material
from workers.embedded.simulator.refusals import Refusal

MIN_PERIOD_DAYS = 90
MAX_PERIOD_DAYS = 2560
DEFAULT_PERIOD_DAYS = 365
ON_DEMAND_LIMIT = 25
"""All four are AWS's (API_EnableKeyRotation, API_RotateKeyOnDemand)."""


@dataclass(slots=True, kw_only=True)
class Schedule:
    """Automatic rotation of one key. `due_at` is None while it is off."""

    period_days: int = DEFAULT_PERIOD_DAYS
    due_at: float | None = None

    def enable(self, now: float, period_days: int | None) -> None:
        """Turn it on, or change its period. The first rotation is a whole period from now."""
        period = DEFAULT_PERIOD_DAYS if period_days is None else period_days
        if not MIN_PERIOD_DAYS <= period <= MAX_PERIOD_DAYS:
            raise Refusal("ValidationException", f"RotationPeriodInDays is {MIN_PERIOD_DAYS} to {MAX_PERIOD_DAYS}.")
        self.period_days, self.due_at = period, now + period * DAY

    def disable(self) -> None:
        """Turn it off."""
        self.due_at = None

    def catch_up(self, material: Material, now: float) -> None:
        """Make the rotations that fell due; a key that was disabled meanwhile gets them when it is enabled."""
        while self.due_at is not None and self.due_at <= now:
            material.rotate(self.due_at, "AUTOMATIC")
            self.due_at += self.period_days * DAY


def rotate_on_demand(material: Material, now: float) -> None:
    """Rotate now; the schedule stays as it is. Raises Refusal LimitExceededException past the 25th."""
    made = sum(generation.rotation == "ON_DEMAND" for generation in material.generations)
    if made >= ON_DEMAND_LIMIT:
        raise Refusal("LimitExceededException", f"A key is rotated on demand {ON_DEMAND_LIMIT} times at most.")
    material.rotate(now, "ON_DEMAND")
