"""Remembers regions and keys, so that a backup key is asked when it may be, and only then."""

from __future__ import annotations

import time
from collections.abc import Callable

SILENCE_SECONDS = 30.0
"""How long a silent region is not waited for again where there is a backup; after that it is asked first once more."""


class RegionMemory:
    """Which regions gave no answer a short while ago, and which keys were refused by their own. Safe under threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._silent_until: dict[str, float] = {}
        self._refused: set[str] = set()

    def note_silence(self, region: str) -> None:
        """Remember that a region gave no answer at all."""
        self._silent_until[region] = self._clock() + SILENCE_SECONDS

    def forget_silence(self, region: str) -> None:
        """Forget a region's silence: it answered, whatever it said, or there is no other way than to ask it again."""
        self._silent_until.pop(region, None)

    def is_silent(self, region: str) -> bool:
        """Return True if a region gave no answer within the last SILENCE_SECONDS, and none since."""
        return self._silent_until.get(region, 0.0) > self._clock()

    def note_refusal(self, main_key: str) -> None:
        """Remember that a key was refused in its own region."""
        self._refused.add(main_key)

    def note_use(self, main_key: str) -> None:
        """Remember that a key opened a wrap in its own region. (That it can be described takes no refusal back.)"""
        self._refused.discard(main_key)

    def is_refused(self, main_key: str) -> bool:
        """Return True if the last word of a key's own region was no: an outage after it takes nothing of that back
        (R8).
        """
        return main_key in self._refused
