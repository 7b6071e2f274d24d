"""The port through which work is woken. A wake-up is a hint with an id: losing or doubling one changes nothing (R3)."""

from __future__ import annotations

from typing import Protocol


class Waker(Protocol):
    """Wakes workers. Never raises: where the broker is away the sweeper comes around."""

    def repack(self, repack: int, *, times: int = 1) -> None:
        """There is work on this repack for `times` workers."""

    def event(self, inbox_id: int) -> None:
        """Wake a worker for an event that waits for its effect."""

    def outbox(self) -> None:
        """Events wait to be published."""


class NullWaker:
    """Wakes no worker: for a caller that does the work itself, or leaves it to the sweeper."""

    def repack(self, repack: int, *, times: int = 1) -> None:
        """Do nothing."""

    def event(self, inbox_id: int) -> None:
        """Do nothing."""

    def outbox(self) -> None:
        """Do nothing."""
