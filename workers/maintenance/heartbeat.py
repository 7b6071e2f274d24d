"""A process's own row: that it is there, what it last did, and what it counted; written every few seconds.

Two different things are said. `seen_at` is a ping from a thread: it shows a frozen process, and no more. Progress is
noted by the code that did something for a message: a process that is there and consumes nothing makes none.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from functools import partial

from workers.errors import DatabaseFailed
from workers.runtime.counters import LOCK_NOTICE_SECONDS, MESSAGES_TAKEN, Counters
from workers.runtime.logs import log
from workers.runtime.version import VERSION
from workers.store.counters import add_counts
from workers.store.database import Database
from workers.store.heartbeats import enter_worker, leave_worker, note_worker

WRITE_SECONDS = 5.0
"""Between two writes: a few small rows, next to nothing beside a batch; what a killed process counted since is lost."""

_writing = threading.Lock()
"""Held while a row is written: a worker's main process forks at any time, and its child must not inherit a database
library whose locks are held by a thread that the child does not have."""

os.register_at_fork(before=_writing.acquire, after_in_parent=_writing.release, after_in_child=_writing.release)


class Heartbeat:
    """One process among the workers."""

    def __init__(self, database: Database, counters: Counters, *, owner: str, name: str, queues: Sequence[str]) -> None:
        self.owner = owner
        self._database, self._counters = database, counters
        self._values = {
            "name": name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": VERSION,
            "queues": list(queues),
        }
        self._progressed = self._canary = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keyrepack-presence", daemon=True)

    def start(self) -> None:
        """Say it now, and from now on."""
        self._thread.start()

    def note_progress(self, queue: str, *, canary: bool = False) -> None:
        """Note that something was done for a message of `queue`."""
        self._counters.count(MESSAGES_TAKEN, queue)
        self._progressed = True
        self._canary = self._canary or canary

    def write(self) -> None:
        """Write the row and the counts. Where the database is away, the next time says it all."""
        progressed, self._progressed = self._progressed, False
        canary, self._canary = self._canary, False
        counts = self._counters.take()
        notice = self._counters.take_latest(LOCK_NOTICE_SECONDS)
        note = partial(note_worker, owner=self.owner, progressed=progressed, canary=canary, lock_notice_seconds=notice)
        try:
            with _writing, self._database.write() as connection:
                if not note(connection):
                    enter_worker(connection, self.owner, self._values)
                    note(connection)
                add_counts(connection, counts)
        except DatabaseFailed as error:
            log.debug("presence.not_written", why=str(error))
            self._counters.give_back(counts)
            self._progressed, self._canary = progressed or self._progressed, canary or self._canary

    def close(self) -> None:
        """Leave: what was counted stays, the row goes."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(WRITE_SECONDS)
        self.write()
        try:
            with _writing, self._database.write() as connection:
                leave_worker(connection, self.owner)
        except DatabaseFailed as error:
            log.debug("presence.not_left", why=str(error))

    def _run(self) -> None:
        while True:
            try:
                self.write()
            except Exception as error:  # noqa: BLE001 - whatever is wrong with the row, the work goes on
                log.warning("presence.failed", error=type(error).__name__)
            if self._closed.wait(WRITE_SECONDS):
                return
