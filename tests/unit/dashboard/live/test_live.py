"""One reader for all browsers: what changes is read once and sent to everybody; a session that ends is told no more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress

import pytest

from workers.dashboard.live.live import MOST_OF_ONE, Live, StreamClient
from workers.errors import DatabaseAway

PATIENCE = 5.0


def watcher(session: str = "s", lives: Callable[[], bool] = lambda: True) -> StreamClient:
    """A browser's open stream."""
    return StreamClient(session=session, lives=lives)


async def next_regions(stream: AsyncIterator[str]) -> dict[str, str]:
    """The next regions that are sent."""
    async with asyncio.timeout(PATIENCE):
        async for line in stream:
            if line.startswith("event: regions"):
                found: dict[str, str] = json.loads(line.split("data: ", 1)[1])
                return found
    raise AssertionError("the stream has ended")


async def running(live: Live) -> asyncio.Task[None]:
    """The reader, at work."""
    return asyncio.create_task(live.run())


async def ended(task: asyncio.Task[None]) -> None:
    """Stop the reader."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def test_fifty_browsers_cost_one_read_a_turn() -> None:
    """All of them are told the same."""
    count = 0

    def read() -> dict[str, str]:
        nonlocal count
        count += 1
        return {"live_count": str(count)}

    async def story() -> None:
        live = Live(0.01)
        task = await running(live)
        streams = [live.follow("/overview", read, watcher(str(number))) for number in range(50)]
        seen = await asyncio.gather(*(next_regions(stream) for stream in streams))
        assert {found["live_count"] for found in seen} <= {str(number) for number in range(1, count + 1)}
        assert live.watchers == 50
        before, turns = count, 0
        while turns < 3:
            await next_regions(streams[0])
            turns += 1
        assert count - before <= 2 * turns + 2
        for stream in streams:
            await stream.aclose()
        assert live.watchers == 0
        await ended(task)

    asyncio.run(story())


def test_nobody_who_watches_costs_nothing() -> None:
    """No read before the first browser, and none after the last."""
    reads = 0

    def read() -> dict[str, str]:
        nonlocal reads
        reads += 1
        return {"live_x": str(reads)}

    async def story() -> None:
        live = Live(0.005)
        task = await running(live)
        await asyncio.sleep(0)
        assert reads == 0
        async with aclosing(live.follow("/x", read, watcher())) as stream:
            await next_regions(stream)
        other = live.follow("/y", lambda: {"live_y": "there"}, watcher())
        before = reads
        async with aclosing(other):
            await next_regions(other)
        assert reads <= before + 1  # a turn that had begun
        await ended(task)

    asyncio.run(story())


def test_only_what_changed_is_sent() -> None:
    """And to one who comes later, all of it."""
    values = {"live_a": "1", "live_b": "1"}

    async def story() -> None:
        live = Live(0.005)
        task = await running(live)
        first = live.follow("/x", lambda: dict(values), watcher())
        assert await next_regions(first) == {"live_a": "1", "live_b": "1"}
        values["live_b"] = "2"
        assert await next_regions(first) == {"live_b": "2"}
        second = live.follow("/x", lambda: dict(values), watcher())
        assert await next_regions(second) == {"live_a": "1", "live_b": "2"}
        await first.aclose()
        await second.aclose()
        await ended(task)

    asyncio.run(story())


def test_a_session_that_ends_ends_its_stream() -> None:
    """The browser is told, and nothing else."""
    alive = True

    async def story() -> None:
        nonlocal alive
        live = Live(0.005)
        task = await running(live)
        stream = live.follow("/x", lambda: {"live_x": "secret" if not alive else "1"}, watcher(lives=lambda: alive))
        await next_regions(stream)
        alive = False
        async with asyncio.timeout(PATIENCE):
            rest = [line async for line in stream]
        assert rest[-1].startswith("event: ended")
        assert not any("secret" in line for line in rest)
        await ended(task)

    asyncio.run(story())


@pytest.mark.parametrize("error", [DatabaseAway("gone"), RuntimeError("a fault")])
def test_a_page_that_cannot_be_read_ends_no_others(error: Exception) -> None:
    """The reader goes on with the next one."""

    def broken() -> dict[str, str]:
        raise error

    async def story() -> None:
        live = Live(0.005)
        task = await running(live)
        bad = live.follow("/bad", broken, watcher())
        waiting = asyncio.create_task(anext(bad))
        await waiting
        good = live.follow("/good", lambda: {"live_x": "1"}, watcher())
        assert await next_regions(good) == {"live_x": "1"}
        await bad.aclose()
        await good.aclose()
        await ended(task)

    asyncio.run(story())


def test_one_browser_opens_only_so_many() -> None:
    """Others are let in all the same."""

    async def story() -> None:
        live = Live(0.01)
        streams = [live.follow(f"/{number}", dict, watcher("greedy")) for number in range(MOST_OF_ONE)]
        for stream in streams:
            await anext(stream)
        assert live.is_full("greedy")
        assert not live.is_full("another")
        for stream in streams:
            await stream.aclose()

    asyncio.run(story())
