"""Calls to a KMS within a budget: so many a second for each account and region, all processes together.

Live calls (a service reads a key) never wait: a share of the rate is theirs alone, and what they take beyond it the
others go without. Background calls (repacks, polls) wait for their turn. A KMS that says "too fast" halves the rate;
it comes back evenly, in a minute from nothing to the whole.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from schemas.keys import MainKeyUri
from workers.errors import KmsBudgetSpent

RECOVERY_SECONDS = 60.0
"""From nothing to the whole rate: slow enough that a throttled KMS is not throttled again at once."""

HALVING_SECONDS = 1.0
"""One halving at most in this time: the answers to calls that were under way say the same thing once more."""

LEAST_SHARE = 1 / 64
"""Of the rate, however often it is halved: without any call nobody would learn that the KMS has recovered."""

PAUSE_SECONDS = 0.5
"""Longest sleep between two questions: the rate may have come back meanwhile."""

_background: ContextVar[bool] = ContextVar("keyrepack_background", default=False)


@contextmanager
def background() -> Iterator[None]:
    """Mark the KMS calls in this block as low priority: no interactive caller waits for them."""
    token = _background.set(True)
    try:
        yield
    finally:
        _background.reset(token)


@contextmanager
def live() -> Iterator[None]:
    """Mark the KMS calls in this block as interactive, although the block around it is low priority."""
    token = _background.set(False)
    try:
        yield
    finally:
        _background.reset(token)


def is_background() -> bool:
    """Return True if the caller can wait."""
    return _background.get()


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What one account and region is asked for: calls a second, calls at once, and the live ones' own share."""

    rate: float
    burst: float
    live_share: float

    def among(self, processes: int) -> Terms:
        """Return one process's part, for when no Redis counts for all of them."""
        return Terms(rate=self.rate / processes, burst=max(1.0, self.burst / processes), live_share=self.live_share)

    @property
    def background_burst(self) -> float:
        """Background calls at once."""
        return max(1.0, self.burst * (1 - self.live_share))


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What is left of a budget: calls at once, and the rate now beside the one that was set."""

    scope: str
    rate: float
    full_rate: float
    background: float
    live: float


class Budget(Protocol):
    """Counts calls by scope (`aws-kms:<account>/<region>`, `openbao:<address>`). Never raises, never waits long."""

    async def take(self, scope: str) -> float:
        """Take one background call. 0: taken; else the seconds after which to ask again."""

    async def spend(self, scope: str, calls: int) -> None:
        """Count calls that did not ask: live ones, and the repeats of others."""

    async def slow_down(self, scope: str) -> None:
        """Halve the rate: the KMS said "too fast"."""

    async def left(self) -> list[Left]:
        """Return what is left of the budget, by scope; of scopes that were called."""

    async def close(self) -> None:
        """Let go of connections."""


@dataclass(slots=True, kw_only=True)
class Bucket:
    """One scope's tokens, at one moment. Its arithmetic is written once more in Lua, in `shared_budget`."""

    terms: Terms
    at: float
    rate: float
    background: float
    live: float
    halved_at: float = float("-inf")

    def settle(self, now: float) -> None:
        """Time has passed."""
        terms, passed = self.terms, max(0.0, now - self.at)
        self.at = now
        self.rate = min(terms.rate, self.rate + passed * terms.rate / RECOVERY_SECONDS)
        earned = passed * self.rate
        self.background = min(terms.background_burst, self.background + earned * (1 - terms.live_share))
        self.live = min(terms.burst * terms.live_share, self.live + earned * terms.live_share)

    def take(self) -> float:
        """See Budget.take."""
        if self.background < 1:
            return (1 - self.background) / (self.rate * (1 - self.terms.live_share))
        self.background -= 1
        return 0.0

    def spend(self, calls: int) -> None:
        """See Budget.spend. What live calls owe is at most a burst: the others wait for it, not for ever."""
        self.live -= calls
        self.background = max(-self.terms.burst, self.background + min(0.0, self.live))
        self.live = max(0.0, self.live)

    def halve(self) -> None:
        """See Budget.slow_down."""
        if self.at - self.halved_at >= HALVING_SECONDS:
            self.halved_at = self.at
            self.rate = max(self.terms.rate * LEAST_SHARE, self.rate / 2)
            self.background = min(0.0, self.background)

    def told(self, scope: str) -> Left:
        """Return what is left, for those who monitor it."""
        full = self.terms.rate
        return Left(scope=scope, rate=self.rate, full_rate=full, background=self.background, live=self.live)


class LocalBudget:
    """This process counts alone."""

    def __init__(self, terms: Terms, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._terms, self._clock = terms, clock
        self._buckets: dict[str, Bucket] = {}

    async def take(self, scope: str) -> float:
        """See Budget.take."""
        return self._bucket(scope).take()

    async def spend(self, scope: str, calls: int) -> None:
        """See Budget.spend."""
        self._bucket(scope).spend(calls)

    async def slow_down(self, scope: str) -> None:
        """See Budget.slow_down."""
        self._bucket(scope).halve()

    async def left(self) -> list[Left]:
        """See Budget.left."""
        return [self._bucket(scope).told(scope) for scope in sorted(self._buckets)]

    async def close(self) -> None:
        """Do nothing: no connection is held."""

    def _bucket(self, scope: str) -> Bucket:
        terms, now = self._terms, self._clock()
        found = self._buckets.get(scope)
        if found is None:
            full = {"background": terms.background_burst, "live": terms.burst * terms.live_share}
            found = self._buckets[scope] = Bucket(terms=terms, at=now, rate=terms.rate, **full)
        found.settle(now)
        return found


@dataclass(slots=True, kw_only=True)
class RateLimiter:
    """Rate limiter of KMS adapters: `admit` before a call, `spent` or `throttled` after. One event loop only."""

    budget: Budget | None = None
    patience: float = 10.0  # seconds that a background call waits; a lease has to outlast it
    _lines: dict[str, asyncio.Lock] = field(default_factory=dict)
    _owed: dict[str, int] = field(default_factory=dict)
    _telling: set[asyncio.Task[None]] = field(default_factory=set)

    async def admit(self, scope: str, main_key: MainKeyUri, operation: str) -> None:
        """Let a live call through, and a background one when the budget admits it. Raises KmsBudgetSpent."""
        if self.budget is None:
            return
        if not is_background():
            self.spent(scope, 1)
            return
        try:
            async with asyncio.timeout(self.patience), self._lines.setdefault(scope, asyncio.Lock()):
                await _take(self.budget, scope)
        except TimeoutError:
            detail = f"It is the one of {scope}, and {self.patience:g} s were waited."
            raise KmsBudgetSpent(main_key=str(main_key), operation=operation, detail=detail) from None

    def spent(self, scope: str, calls: int) -> None:
        """Count calls that did not wait. Sent in the background: no caller waits for the count either."""
        if self.budget is None or not calls:
            return
        is_telling = scope in self._owed
        self._owed[scope] = self._owed.get(scope, 0) + calls
        if not is_telling:
            self._tell(self._pay(self.budget, scope))

    def throttled(self, scope: str) -> None:
        """Slow down: the KMS said "too fast"."""
        if self.budget is not None:
            self._tell(self.budget.slow_down(scope))

    async def close(self) -> None:
        """Let go of connections."""
        await asyncio.gather(*self._telling, return_exceptions=True)
        if self.budget is not None:
            await self.budget.close()

    async def _pay(self, budget: Budget, scope: str) -> None:
        await budget.spend(scope, self._owed.pop(scope))

    def _tell(self, word: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(word)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)


async def _take(budget: Budget, scope: str) -> None:
    while True:
        wait = await budget.take(scope)
        if wait <= 0:
            return
        await asyncio.sleep(min(wait, PAUSE_SECONDS))
