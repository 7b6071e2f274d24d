"""Looks at many main keys, some at once: within a budget of calls, in bounded memory.

It knows no database and no KMS: keys come in by their URI, `poll_one` says what it saw, each result comes out once.

- The budget is in calls a second, spread evenly: no burst is longer than BURST_SECONDS.
- An endpoint (AWS: a region; else the kind of KMS) gets `per_endpoint` calls at once, so a slow one leaves the others
  calls. One that leaves as many calls in a row unanswered is silent: what else waits for it comes out at once, as not
  asked, and is to be polled another time. It was given fewer than twice as many calls by then.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from schemas.errors import MalformedMainKeyUri
from schemas.keys import AwsKeyArn, MainKeyUri

LINE = 256
"""Keys that may wait for one endpoint: it is never idle, and there are few endpoints."""

BURST_SECONDS = 0.1
PATIENCE_SECONDS = 2.0
"""How long a full line may stand still, once: after that its keys are put off until it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PollResult:
    """What a poll of a main key showed. `cause` None: it can be used. `generation` None: its KMS hides it.

    `answered`: whether it is the KMS's own word. `asked` False: there was no poll; it is to be made soon.
    """

    key: str
    generation: str | None = None
    cause: str | None = None
    detail: str = ""
    answered: bool = True
    asked: bool = True


Keys = AsyncIterable[str] | Iterable[str]
Look = Callable[[str], Awaitable[PollResult]]
Sleep = Callable[[float], Awaitable[None]]


def endpoint_of(key: str) -> str:
    """Return which endpoint answers for a key, and falls silent as a whole: AWS has one per region."""
    scheme = key.partition(":")[0]
    try:
        arn = AwsKeyArn.of(MainKeyUri.parse(key))
    except MalformedMainKeyUri:
        return scheme
    return f"{scheme}:{arn.partition}/{arn.region}"


async def poll(
    keys: Keys,
    look: Look,
    *,
    rate: float,
    concurrency: int,
    per_endpoint: int,
    clock: Callable[[], float] = time.monotonic,
    sleep: Sleep = asyncio.sleep,
) -> AsyncGenerator[PollResult, None]:
    """Look at every key once; sights come as they are had. What `look` or `keys` raises ends the poll and is raised.

    `rate` in calls a second; `concurrency` calls at once, `per_endpoint` of them to one endpoint.
    """
    pass_ = _Pass(look, _Budget(rate, clock, sleep), concurrency, min(per_endpoint, concurrency))
    running = asyncio.create_task(pass_.run(keys))
    try:
        while (seen := await pass_.sights.get()) is not None:
            yield seen
        await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class _Budget:
    """So many calls a second, evenly."""

    def __init__(self, rate: float, clock: Callable[[], float], sleep: Sleep) -> None:
        self._step, self._clock, self._sleep = 1 / rate, clock, sleep
        self._next = clock()

    async def take(self) -> None:
        """Wait until one more call may be made."""
        now = self._clock()
        turn = max(self._next, now - BURST_SECONDS)
        self._next = turn + self._step
        if turn > now:
            await self._sleep(turn - now)


@dataclass(slots=True)
class _Endpoint:
    """The keys that wait for one endpoint. `unanswered` calls in a row; `stuck`: its line was full and did not move."""

    line: deque[str] = field(default_factory=deque)
    lookers: int = 0
    unanswered: int = 0
    stuck: bool = False
    moved: asyncio.Event = field(default_factory=asyncio.Event)


class _Pass:
    """One pass over the keys."""

    def __init__(self, look: Look, budget: _Budget, concurrency: int, per_endpoint: int) -> None:
        self._look, self._budget, self._per_endpoint = look, budget, per_endpoint
        self._room = asyncio.Semaphore(concurrency)
        self._endpoints: dict[str, _Endpoint] = {}
        self.sights: asyncio.Queue[PollResult | None] = asyncio.Queue(concurrency)

    async def run(self, keys: Keys) -> None:
        """Poll them all; None ends the results."""
        try:
            async with asyncio.TaskGroup() as group:
                async for key in _each(keys):
                    await self._enqueue(key, group)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            await self.sights.put(None)

    async def _enqueue(self, key: str, group: asyncio.TaskGroup) -> None:
        """Put a key into its endpoint's line, with a task to serve it."""
        endpoint = self._endpoints.setdefault(endpoint_of(key), _Endpoint())
        if not await self._has_room(endpoint):
            await self.sights.put(_not_asked(key))
            return
        endpoint.line.append(key)
        if endpoint.lookers < self._per_endpoint:
            endpoint.lookers += 1
            group.create_task(self._serve(endpoint))

    async def _has_room(self, endpoint: _Endpoint) -> bool:
        if len(endpoint.line) < LINE or endpoint.stuck:
            return len(endpoint.line) < LINE
        endpoint.moved.clear()
        try:
            await asyncio.wait_for(endpoint.moved.wait(), PATIENCE_SECONDS)
        except TimeoutError:
            endpoint.stuck = True
        return len(endpoint.line) < LINE

    async def _serve(self, endpoint: _Endpoint) -> None:
        """Look at one key after the other until the line is empty."""
        try:
            while endpoint.line:
                key = endpoint.line.popleft()
                endpoint.stuck = False
                endpoint.moved.set()
                await self.sights.put(await self._look_at(key, endpoint))
        finally:
            endpoint.lookers -= 1

    async def _look_at(self, key: str, endpoint: _Endpoint) -> PollResult:
        async with self._room:
            if endpoint.unanswered >= self._per_endpoint:
                return _not_asked(key)
            await self._budget.take()
            seen = await self._look(key)
            endpoint.unanswered = 0 if seen.answered else endpoint.unanswered + 1
            return seen


def _not_asked(key: str) -> PollResult:
    return PollResult(key=key, detail="Its endpoint gives no answer.", answered=False, asked=False)


async def _each(keys: Keys) -> AsyncIterator[str]:
    if isinstance(keys, AsyncIterable):
        async for key in keys:
            yield key
    else:
        for key in keys:
            yield key
