"""The newest overview and its status, read by one thread for all pages, browsers and answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from workers.errors import DatabaseAway
from workers.monitoring.overview import Overview
from workers.monitoring.overview_reader import OverviewReader
from workers.monitoring.status import Status, judge
from workers.runtime.logs import log
from workers.runtime.single_flight import FreshFlight
from workers.store.database import Database
from workers.store.inbox import count_rejected
from workers.store.queries.listings import recent_moves

IDLE_SECONDS = 5.0
"""Seconds between two reads while no page is open: the graph of the last hour is there for the first browser."""

MOVES = 20
"""The newest moves whose times are shown."""

Moves = list[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverviewSnapshot:
    """One read. `rotations`: (begun, closed) of the newest moves that followed a rotation."""

    overview: Overview
    status: Status
    rejected: int
    rotations: Moves


class OverviewCache:
    """Looks by itself, as often as it is worth it."""

    def __init__(
        self, reader: OverviewReader, database: Database, *, seconds: float, clock: Callable[[], float]
    ) -> None:
        self._reader, self._database, self._seconds, self._clock = reader, database, seconds, clock
        self._seen: OverviewSnapshot | None = None
        self._at = self._wanted = 0.0
        self._reads: FreshFlight[None, OverviewSnapshot] = FreshFlight()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keyrepack-glance", daemon=True)

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def latest(self) -> OverviewSnapshot:
        """Return the newest overview; a fresh one if the last is too old to be shown. Raises DatabaseAway."""
        self._wanted = self._clock()
        seen = self._seen
        if seen is not None and self._clock() - self._at < max(2 * self._seconds, 1.0):
            return seen
        return self.refresh()

    def refresh(self) -> OverviewSnapshot:
        """Read an overview that is newer than this call; callers at once share one. Raises DatabaseAway."""
        return self._reads.fetch(None, self._read)

    def _read(self) -> OverviewSnapshot:
        overview = self._reader.read()
        with self._database.read() as connection:
            rejected = count_rejected(connection)
            rotations = recent_moves(connection, rotations=True, limit=MOVES)
        status = judge(overview, rejected=rejected)
        self._seen = OverviewSnapshot(overview=overview, status=status, rejected=rejected, rotations=rotations)
        self._at = self._clock()
        return self._seen

    def close(self) -> None:
        """Look no more."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(10)
        self._reader.close()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self.refresh()
            except DatabaseAway as error:
                log.warning("glance.failed", code=error.code)
            except Exception as error:  # noqa: BLE001 - the next reader gets the error; this thread goes on
                log.error("glance.broken", error=type(error).__name__)
            is_wanted = self._clock() - self._wanted < IDLE_SECONDS * 2
            self._closed.wait(self._seconds if is_wanted else IDLE_SECONDS)
