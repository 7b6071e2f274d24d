"""The newest overview and what to make of it: looked at by one thread for all pages, browsers and answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from workers.errors import DatabaseAway
from workers.monitoring.overview import Overview, Watch
from workers.monitoring.status import Verdict, judge
from workers.runtime.logs import log
from workers.store.database import Database
from workers.store.inbox import count_rejected
from workers.store.queries.listings import recent_moves

IDLE_SECONDS = 5.0
"""Between two looks while nobody watches: the graph of the last hour is there for the first who does."""

MOVES = 20
"""The newest moves that times are told of."""

Moves = list[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One look. `rotations`: (begun, closed) of the newest moves that followed a rotation."""

    overview: Overview
    verdict: Verdict
    rejected: int
    rotations: Moves


class Glance:
    """Looks by itself, as often as it is worth it."""

    def __init__(self, watch: Watch, database: Database, *, seconds: float, clock: Callable[[], float]) -> None:
        self._watch, self._database, self._seconds, self._clock = watch, database, seconds, clock
        self._seen: Seen | None = None
        self._at = self._wanted = 0.0
        self._looking = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keyrepack-glance", daemon=True)

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def latest(self) -> Seen:
        """The newest look; a fresh one where the last is too old to be shown. Raises DatabaseAway."""
        self._wanted = self._clock()
        seen = self._seen
        if seen is not None and self._clock() - self._at < max(2 * self._seconds, 1.0):
            return seen
        return self.look()

    def look(self) -> Seen:
        """Look now, unless somebody else just did. Raises DatabaseAway."""
        asked = self._clock()
        with self._looking:
            if self._seen is not None and self._at > asked:
                return self._seen
            overview = self._watch.look()
            with self._database.read() as connection:
                rejected = count_rejected(connection)
                rotations = recent_moves(connection, rotations=True, limit=MOVES)
            verdict = judge(overview, rejected=rejected)
            self._seen = Seen(overview=overview, verdict=verdict, rejected=rejected, rotations=rotations)
            self._at = self._clock()
            return self._seen

    def close(self) -> None:
        """Look no more."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(10)
        self._watch.close()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self.look()
            except DatabaseAway as error:
                log.warning("glance.failed", code=error.code)
            except Exception as error:  # noqa: BLE001 - whoever looks next is told; this thread goes on
                log.error("glance.broken", error=type(error).__name__)
            is_wanted = self._clock() - self._wanted < IDLE_SECONDS * 2
            self._closed.wait(self._seconds if is_wanted else IDLE_SECONDS)
