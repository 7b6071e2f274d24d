"""Time slices: how long a worker stays with one repack. Short while others wait: none waits for another's keys."""

from __future__ import annotations

from workers.services import Services
from workers.store import fair_queue


def next_repack(services: Services) -> int | None:
    """Claim the repack that has waited longest; None if none waits. A woken worker serves it, whichever one asked."""
    with services.database.write() as connection:
        return fair_queue.take_turn(connection)


class TimeSlice:
    """One worker's time with one repack: a slice, or `turn_seconds` of it where others wait."""

    def __init__(self, services: Services, repack: int) -> None:
        now, settings = services.clock(), services.settings
        self._services, self._repack = services, repack
        self._end = now + settings.slice_seconds
        self._look_at = now + settings.turn_seconds

    def is_over(self) -> bool:
        """Return True if it is time to leave. The database is asked once per `turn_seconds`: small repacks cost
        nothing.
        """
        now = self._services.clock()
        if now < self._look_at or now >= self._end:
            return now >= self._end
        self._look_at = now + self._services.settings.turn_seconds
        with self._services.database.autocommit_read() as connection:
            if fair_queue.do_others_wait(connection, self._repack):
                self._end = now
        return now >= self._end
