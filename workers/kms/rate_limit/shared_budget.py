"""The budget that all processes share: token buckets in Redis, by Redis's clock, each question one script.

While Redis is away every process counts alone, with its part of the rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from workers.kms.rate_limit.budget import (
    HALVING_SECONDS,
    LEAST_SHARE,
    RECOVERY_SECONDS,
    Budget,
    Left,
    LocalBudget,
    Terms,
)
from workers.runtime.logs import log

KEY = "keyrepack.kms_budget."
AWAY_SECONDS = 5.0
"""How long a Redis that failed is left alone: each question to it could take as long as its time-out."""

FORGET_SECONDS = 3600
"""A bucket that was not asked for this long is full, and need not be kept."""

SCRIPT = f"""
local rate_full, burst, share = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6
local kept = redis.call('HMGET', KEYS[1], 'at', 'rate', 'background', 'live', 'halved_at')
local most, most_live = math.max(1, burst * (1 - share)), burst * share
local at, rate = tonumber(kept[1]) or now, tonumber(kept[2]) or rate_full
local background, live = tonumber(kept[3]) or most, tonumber(kept[4]) or most_live
local halved_at = tonumber(kept[5]) or 0
local passed = math.max(0, now - at)
rate = math.min(rate_full, rate + passed * rate_full / {RECOVERY_SECONDS})
background = math.min(most, background + passed * rate * (1 - share))
live = math.min(most_live, live + passed * rate * share)
local wait = 0
if ARGV[1] == 'take' then
  if background < 1 then wait = (1 - background) / (rate * (1 - share)) else background = background - 1 end
elseif ARGV[1] == 'spend' then
  live = live - tonumber(ARGV[5])
  background = math.max(-burst, background + math.min(0, live))
  live = math.max(0, live)
elseif ARGV[1] == 'halve' and now - halved_at >= {HALVING_SECONDS} then
  halved_at = now
  rate = math.max(rate_full * {LEAST_SHARE}, rate / 2)
  background = math.min(0, background)
end
if ARGV[1] ~= 'tell' then
  redis.call('HSET', KEYS[1], 'at', string.format('%.6f', now), 'rate', rate, 'background', background,
             'live', live, 'halved_at', string.format('%.6f', halved_at))
  redis.call('EXPIRE', KEYS[1], {FORGET_SECONDS})
end
return {{tostring(wait), tostring(rate), tostring(background), tostring(live)}}
"""
"""Bucket's arithmetic, see `budget`. Returns wait, rate, background, live."""


class SharedBudget:
    """Counts in Redis, for every process that is pointed to it."""

    def __init__(
        self,
        url: str,
        terms: Terms,
        *,
        alone: Budget,
        tls: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect at the first question. `alone` counts while Redis is away; `tls`: options of redis' client."""
        self._client: Any = Redis.from_url(url, **(tls or {}), socket_timeout=1.0, socket_connect_timeout=1.0)
        self._ask_script = self._client.register_script(SCRIPT)
        self._terms, self._alone, self._clock = terms, alone, clock
        self._away_until = float("-inf")

    async def take(self, scope: str) -> float:
        """See Budget.take."""
        answer = await self._ask(scope, "take")
        return await self._alone.take(scope) if answer is None else answer[0]

    async def spend(self, scope: str, calls: int) -> None:
        """See Budget.spend."""
        if await self._ask(scope, "spend", calls) is None:
            await self._alone.spend(scope, calls)

    async def slow_down(self, scope: str) -> None:
        """See Budget.slow_down."""
        await self._alone.slow_down(scope)  # should Redis go away now, this process knows all the same
        await self._ask(scope, "halve")

    async def left(self) -> list[Left]:
        """See Budget.left."""
        if self._clock() < self._away_until:
            return await self._alone.left()
        try:
            keys = sorted([key.decode() async for key in self._client.scan_iter(match=f"{KEY}*")])
        except (RedisError, OSError) as error:
            self._note_away(error)
            return await self._alone.left()
        found = []
        for scope in (key.removeprefix(KEY) for key in keys):
            answer = await self._ask(scope, "tell")
            if answer is not None:
                _, rate, background, live = answer
                full = self._terms.rate
                found.append(Left(scope=scope, rate=rate, full_rate=full, background=background, live=live))
        return found

    async def close(self) -> None:
        """See Budget.close."""
        await self._client.aclose()

    async def _ask(self, scope: str, act: str, calls: int = 0) -> list[float] | None:
        """Run the script; None while Redis is away."""
        if self._clock() < self._away_until:
            return None
        terms = self._terms
        arguments: list[str | float] = [act, terms.rate, terms.burst, terms.live_share, calls]
        try:
            return [float(part) for part in await self._ask_script(keys=[KEY + scope], args=arguments)]
        except (RedisError, OSError) as error:
            self._note_away(error)
            return None

    def _note_away(self, error: Exception) -> None:
        self._away_until = self._clock() + AWAY_SECONDS
        log.warning("kms_budget.counts_alone", error=type(error).__name__, seconds=AWAY_SECONDS)


def make_budget(url: str | None, terms: Terms, *, processes: int, tls: Mapping[str, Any] | None = None) -> Budget:
    """Make the budget of an installation. Without a Redis each of its processes takes its part of the rate."""
    alone = LocalBudget(terms.among(processes))
    return alone if url is None else SharedBudget(url, terms, alone=alone, tls=tls)
