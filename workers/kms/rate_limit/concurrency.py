"""Limits how many calls run at once from one process. A part of it is kept for live calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from workers.kms.rate_limit.budget import is_background

KEPT_FOR_LIVE = 4
"""One place in so many: a slow KMS fills the others with a repack's calls."""


class CallLimiter:
    """Places for calls, on one event loop."""

    def __init__(self, places: int) -> None:
        self._all = asyncio.Semaphore(places)
        self._background = asyncio.Semaphore(max(1, places - max(1, places // KEPT_FOR_LIVE)))

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Take one slot, once there is one."""
        if not is_background():
            async with self._all:
                yield
            return
        async with self._background, self._all:
            yield
