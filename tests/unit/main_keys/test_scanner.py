"""The poller: each key once, within the budget, in bounded memory, and no endpoint holds up another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.main_keys import scanner
from workers.main_keys.scanner import LINE, PollResult, endpoint_of, poll

ARN = "aws-kms:arn:aws:kms:{region}:111122223333:key/00000000-0000-0000-0000-{number:012x}"


def aws(region: str, count: int) -> list[str]:
    return [ARN.format(region=region, number=number) for number in range(count)]


async def answer(key: str) -> PollResult:
    return PollResult(key=key, generation="1")


def gather(keys: object, look: object = answer, **limits: int) -> list[PollResult]:
    async def all_of_them() -> list[PollResult]:
        chosen: dict[str, object] = {"rate": 1e9, "concurrency": 8, "per_endpoint": 4} | limits
        return [seen async for seen in poll(keys, look, **chosen)]  # type: ignore[arg-type]

    return asyncio.run(asyncio.wait_for(all_of_them(), 20))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([*aws("eu-west-1", 3), *aws("us-east-1", 3), "managed:", "openbao:t/k"]), max_size=60),
       st.integers(1, 9), st.integers(1, 9))  # fmt: skip
def test_each_key_comes_out_once(keys: list[str], concurrency: int, per_endpoint: int) -> None:
    """Whatever the limits and endpoints, every key that goes in comes out exactly once, and was asked."""
    seen = gather(keys, concurrency=concurrency, per_endpoint=per_endpoint)
    assert sorted(each.key for each in seen) == sorted(keys)
    assert all(each.asked for each in seen)


def test_calls_are_spread_over_the_budget() -> None:
    """At 50 calls a second no second has more than 50 and a short burst, whoever is how fast."""
    now, at = 0.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    async def look(key: str) -> PollResult:
        at.append(now)
        return await answer(key)

    async def run() -> None:
        sights = poll(
            aws("eu-west-1", 500), look, rate=50, concurrency=1, per_endpoint=1, clock=lambda: now, sleep=sleep
        )
        assert len([seen async for seen in sights]) == 500

    asyncio.run(run())
    assert at[-1] == pytest.approx(500 / 50, abs=0.2)
    for start in range(10):
        assert sum(start <= each < start + 1 for each in at) <= 51


def test_limits_hold_at_every_instant() -> None:
    """Never more calls at once than allowed, altogether or to one endpoint."""
    running: dict[str, int] = {}
    most: dict[str, int] = {}

    async def look(key: str) -> PollResult:
        for name in (endpoint_of(key), "all"):
            running[name] = running.get(name, 0) + 1
            most[name] = max(most.get(name, 0), running[name])
        await asyncio.sleep(0.001)
        for name in (endpoint_of(key), "all"):
            running[name] -= 1
        return await answer(key)

    gather([*aws("eu-west-1", 60), *aws("us-east-1", 60), *aws("ap-south-1", 60)], look, concurrency=7, per_endpoint=3)
    assert most.pop("all") == 7
    assert set(most.values()) == {3}


def test_a_dead_endpoint_does_not_hold_up_the_others() -> None:
    """A thousand keys of a region that hangs, in front: all others are seen while its first calls still hang."""
    hung, order = asyncio.Event(), []

    async def look(key: str) -> PollResult:
        if "us-east-1" not in key:
            order.append(key)
            if len(order) == 500:
                hung.set()  # only now do the first calls to the dead region come to their end
            return await answer(key)
        await hung.wait()
        return PollResult(key=key, cause="unreachable", answered=False)

    seen = gather(aws("us-east-1", 200) + aws("eu-west-1", 500), look)
    assert len(order) == 500
    dead = [each for each in seen if "us-east-1" in each.key]
    assert len(dead) == 200
    assert 4 <= sum(each.asked for each in dead) < 8, "then it is silent: nobody else waits for it"


def test_a_full_line_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where more keys of a hanging endpoint come than its line takes, the rest are put off, not waited for."""
    monkeypatch.setattr(scanner, "PATIENCE_SECONDS", 0.2)
    done = asyncio.Event()

    async def look(key: str) -> PollResult:
        if "us-east-1" in key:
            await done.wait()
            return PollResult(key=key, cause="unreachable", answered=False)
        done.set()
        return await answer(key)

    seen = gather([*aws("us-east-1", LINE + 300), "managed:"], look)
    assert len(seen) == LINE + 301
    assert 5 <= sum(each.asked for each in seen) < 9


def test_an_endpoint_that_answers_again_is_asked_on() -> None:
    """Silence counts in a row: failures with answers between them put nobody off."""

    async def look(key: str) -> PollResult:
        return PollResult(key=key, answered=int(key[-1], 16) % 3 == 0)

    assert all(seen.asked for seen in gather(aws("eu-west-1", 64), look, concurrency=4, per_endpoint=4))


def test_keys_are_read_no_faster_than_they_are_looked_at() -> None:
    """Bounded memory: of any number of keys only a line, the calls under way and the sights to take are held."""
    read, taken = 0, 0

    def keys() -> Iterator[str]:
        nonlocal read
        for key in aws("eu-west-1", 20_000):
            read += 1
            yield key

    async def run() -> None:
        nonlocal taken
        async for _ in poll(keys(), answer, rate=1e9, concurrency=8, per_endpoint=4):
            taken += 1
            assert read - taken <= LINE + 8 + 8 + 4 + 1

    asyncio.run(run())
    assert taken == 20_000


def test_what_a_look_raises_ends_the_poll() -> None:
    """An error that nobody expected is raised where the sights are taken; nothing goes on behind its back."""

    async def look(key: str) -> PollResult:
        raise ZeroDivisionError

    async def broken() -> AsyncIterator[str]:
        yield "managed:"
        raise LookupError

    with pytest.raises(ZeroDivisionError):
        gather(aws("eu-west-1", 50), look)
    with pytest.raises(LookupError):
        gather(broken())


def test_one_who_stops_taking_leaves_nothing_running() -> None:
    """When the sights are no longer wanted, every call under way is cancelled."""

    async def look(key: str) -> PollResult:
        if key.endswith("0"):
            return await answer(key)
        await asyncio.sleep(600)
        raise AssertionError

    async def run() -> int:
        sights = poll(aws("eu-west-1", 10), look, rate=1e9, concurrency=8, per_endpoint=4)
        await anext(sights)
        await sights.aclose()
        return len(asyncio.all_tasks())

    assert asyncio.run(run()) == 1


def test_an_endpoint_is_a_region_or_a_kind() -> None:
    """AWS answers by region, whoever owns the key; other kinds of main key have one endpoint."""
    left, right = aws("eu-west-1", 1)[0], aws("eu-west-1", 1)[0].replace("111122223333", "999922223333")
    assert endpoint_of(left) == endpoint_of(right) != endpoint_of(aws("us-east-1", 1)[0])
    assert [endpoint_of(key) for key in ("managed:", "openbao:transit/a", "aws-kms:odd")] == [
        "managed", "openbao", "aws-kms",
    ]  # fmt: skip
