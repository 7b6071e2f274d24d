"""One reader for all browsers: while a page is open, what it shows is read once per cycle, and changes are sent.

A client is a browser's open stream. Ten browsers on one page cost one read; none cost none.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from schemas.errors import KeyrepackError
from workers.runtime.logs import log

Regions = Mapping[str, str]

SHARE = 0.2
"""Of the time, at most this much is spent reading: where a read is slow, cycles are further apart."""

HEARTBEAT_SECONDS = 15.0
"""A line that says nothing: proxies cut silent streams, and a browser that left is noticed."""

MOST, MOST_OF_ONE = 500, 12
"""Streams at once, in all and of one session: a browser opens one a tab."""


@dataclass(slots=True, eq=False)
class StreamClient:
    """An open stream. What changes before it is sent is sent once."""

    session: str
    lives: Callable[[], bool]
    pending: dict[str, str] = field(default_factory=dict)
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, regions: Regions) -> None:
        """Say which regions changed."""
        if regions:
            self.pending.update(regions)
            self.ready.set()


@dataclass(slots=True)
class _Topic:
    read: Callable[[], Regions]
    watchers: set[StreamClient] = field(default_factory=set)
    last: dict[str, str] = field(default_factory=dict)


class Live:
    """All topics that are watched. `run` is the reader: one task of the server."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._topics: dict[str, _Topic] = {}
        self._watched = asyncio.Event()
        self.reads = 0

    @property
    def watchers(self) -> int:
        """Count the open streams."""
        return sum(len(topic.watchers) for topic in self._topics.values())

    def is_full(self, session: str) -> bool:
        """Return True if no more streams are to be opened, or no more by this session."""
        own = sum(one.session == session for topic in self._topics.values() for one in topic.watchers)
        return self.watchers >= MOST or own >= MOST_OF_ONE

    async def follow(self, name: str, read: Callable[[], Regions], watcher: StreamClient) -> AsyncIterator[str]:
        """Yield what a browser that follows a topic is sent, until it leaves or its session ends."""
        topic = self._topics.setdefault(name, _Topic(read))
        topic.watchers.add(watcher)
        watcher.tell(topic.last)
        self._watched.set()
        try:
            yield "retry: 2000\n\n"
            while watcher.lives():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(watcher.ready.wait(), HEARTBEAT_SECONDS)
                watcher.ready.clear()
                changed, watcher.pending = watcher.pending, {}
                if not watcher.lives():
                    break
                yield f"event: regions\ndata: {json.dumps(changed)}\n\n" if changed else ": still here\n\n"
            yield "event: ended\ndata: {}\n\n"
        finally:
            topic.watchers.discard(watcher)
            if not topic.watchers and self._topics.get(name) is topic:
                del self._topics[name]

    async def run(self) -> None:
        """Read what open pages show, cycle by cycle, for ever."""
        while True:
            if not self._topics:
                self._watched.clear()
                await self._watched.wait()
            begun = time.monotonic()
            for topic in list(self._topics.values()):
                await self._read(topic)
            spent = time.monotonic() - begun
            await asyncio.sleep(max(self._seconds - spent, spent * (1 - SHARE) / SHARE, 0.01))

    async def _read(self, topic: _Topic) -> None:
        try:
            regions = await run_in_threadpool(topic.read)
            self.reads += 1
        except KeyrepackError as error:
            log.warning("live.not_read", code=error.code)
            regions = {"live_trouble": error.code}
        except Exception as error:  # noqa: BLE001 - one page that cannot be read must not end all the others
            log.error("live.broken", error=type(error).__name__)
            return
        changed = {name: html for name, html in regions.items() if topic.last.get(name) != html}
        topic.last.update(changed)
        for watcher in topic.watchers:
            if watcher.lives():
                watcher.tell(changed)
            else:
                watcher.ready.set()
