"""One suite over both budgets: this process's own, and the one that all processes share in Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from tests.poll import stretched
from workers.embedded.redis import RedisServer
from workers.kms.rate_limit.budget import Bucket, Budget, Left, LocalBudget, Terms
from workers.kms.rate_limit.shared_budget import KEY, SharedBudget, make_budget

TERMS = Terms(rate=1.0, burst=20.0, live_share=0.2)
"""So slow that the time a test takes itself is of no account: Redis has a clock of its own."""
SCOPE = "aws-kms:own/eu-west-1"


@dataclass
class Rig:
    """A budget whose time passes when a test says so."""

    make: Callable[[Terms], Budget]
    let_pass: Callable[[float], None]


@pytest.fixture(params=["local", "shared"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """Each kind of budget."""
    if request.param == "local":
        seconds = [1000.0]

        def let_pass(passed: float) -> None:
            seconds[0] += passed

        yield Rig(lambda terms: LocalBudget(terms, clock=lambda: seconds[0]), let_pass)
        return
    url = request.getfixturevalue("redis_url")
    with closing(redis.Redis.from_url(url, decode_responses=True)) as client:

        def put_back(passed: float) -> None:
            """Redis's clock is its own: what it remembers is made older instead."""
            for key in client.keys(f"{KEY}*"):
                for name in ("at", "halved_at"):
                    client.hincrbyfloat(key, name, -passed)

        yield Rig(lambda terms: SharedBudget(url, terms, alone=LocalBudget(terms)), put_back)


def play(budget: Budget, script: Callable[[Budget], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        try:
            return await script(budget)
        finally:
            await budget.close()

    return asyncio.run(run())


async def drain(budget: Budget, most: int = 1000) -> int:
    """Take until a call has to wait; how many were taken."""
    for taken in range(most):
        if await budget.take(SCOPE) > 0:
            return taken
    return most


async def look(budget: Budget) -> Left:
    (left,) = await budget.left()
    assert left.scope == SCOPE
    return left


def test_background_calls_take_their_share_of_a_burst_and_no_more(rig: Rig) -> None:
    """Of a burst of 20 a fifth is kept for live calls: 16 are taken, and the next one is told how long to wait."""

    async def script(budget: Budget) -> float:
        assert await drain(budget) == 16
        return await budget.take(SCOPE)

    wait = play(rig.make(TERMS), script)
    assert 1 < wait <= 1 / 0.8


def test_the_rate_comes_back_evenly(rig: Rig) -> None:
    """After ten seconds there are 8 of 10 calls: a fifth of them is not the background's."""

    async def script(budget: Budget) -> int:
        await drain(budget)
        rig.let_pass(10)
        return await drain(budget)

    assert play(rig.make(TERMS), script) == 8


def test_live_calls_take_their_own_share_first(rig: Rig) -> None:
    """Live calls within their share cost the others nothing; what goes beyond it the others do without."""

    async def script(budget: Budget) -> tuple[Left, Left, int]:
        await budget.take(SCOPE)
        await budget.spend(SCOPE, 4)
        within = await look(budget)
        await budget.spend(SCOPE, 10)
        return within, await look(budget), await drain(budget)

    within, beyond, taken = play(rig.make(TERMS), script)
    assert within.background >= 15
    assert within.live < 1
    assert beyond.background < 7
    assert taken < 8


def test_what_live_calls_owe_is_not_owed_for_ever(rig: Rig) -> None:
    """A storm of live calls holds background calls back for a burst's worth of time, not for as long as it was."""

    async def script(budget: Budget) -> float:
        await budget.spend(SCOPE, 100_000)
        return await budget.take(SCOPE)

    assert play(rig.make(TERMS), script) <= 21 / 0.8


def test_a_throttled_answer_halves_the_rate_and_time_brings_it_back(rig: Rig) -> None:
    """Half of it at once, once a second at most; all of it within half a minute, evenly."""

    async def script(budget: Budget) -> list[float]:
        await budget.take(SCOPE)
        rates = []
        for passed in (0.0, 0.0, 1.5, 15.0, 60.0):
            rig.let_pass(passed)
            if passed < 2:
                await budget.slow_down(SCOPE)
            rates.append((await look(budget)).rate)
        return rates

    halved, again, twice, later, whole = play(rig.make(TERMS), script)
    assert halved == pytest.approx(0.5, abs=0.01)
    assert again == pytest.approx(0.5, abs=0.01)
    assert twice == pytest.approx(0.26, abs=0.01)
    assert later == pytest.approx(0.51, abs=0.02)
    assert whole == 1


def test_however_often_it_is_halved_some_calls_are_left(rig: Rig) -> None:
    """Without any call nobody would learn that the KMS has recovered."""

    async def script(budget: Budget) -> float:
        await budget.take(SCOPE)
        for _ in range(20):
            rig.let_pass(1.01)
            await budget.slow_down(SCOPE)
        return (await look(budget)).rate

    assert play(rig.make(TERMS), script) >= 1 / 64


def test_each_account_and_region_has_its_own(rig: Rig) -> None:
    """One that is spent, or throttled, takes nothing from another."""

    async def script(budget: Budget) -> dict[str, Left]:
        await drain(budget)
        await budget.slow_down(SCOPE)
        assert await budget.take("aws-kms:own/us-east-1") == 0
        return {left.scope: left for left in await budget.left()}

    left = play(rig.make(TERMS), script)
    assert left["aws-kms:own/us-east-1"].rate == left["aws-kms:own/us-east-1"].full_rate == 1
    assert left[SCOPE].rate < 0.6


def test_processes_share_what_is_in_redis(redis_url: str) -> None:
    """What one of them takes the other one lacks; and one that is slowed down slows the other."""

    async def script() -> tuple[int, float]:
        one, other = (SharedBudget(redis_url, TERMS, alone=LocalBudget(TERMS)) for _ in range(2))
        await drain(one)
        taken = await drain(other)
        await one.slow_down(SCOPE)
        rate = (await look(other)).rate
        await one.close()
        await other.close()
        return taken, rate

    taken, rate = asyncio.run(script())
    assert taken == 0
    assert rate == pytest.approx(0.5, abs=0.01)


def test_while_redis_is_away_each_process_takes_its_part(redis_server: RedisServer) -> None:
    """Nobody waits for a Redis that is away, and eight processes together stay within the rate."""

    async def script(budget: Budget) -> tuple[int, float, list[Left]]:
        started = time.monotonic()
        taken = await drain(budget)
        return taken, time.monotonic() - started, await budget.left()

    nobody = redis_server.url.replace(f":{redis_server.port}", ":1")
    taken, seconds, left = play(make_budget(nobody, TERMS, processes=8), script)
    assert taken == 2, "an eighth of a burst of 16"
    assert seconds < stretched(1)
    assert left[0].full_rate == 1 / 8


def test_without_a_redis_each_process_takes_its_part() -> None:
    """Another broker, and no Redis: the same."""
    budget = make_budget(None, TERMS, processes=4)
    assert isinstance(budget, LocalBudget)
    assert play(budget, look_at_one).full_rate == 0.25


async def look_at_one(budget: Budget) -> Left:
    await budget.take(SCOPE)
    return await look(budget)


def test_lua_and_python_count_alike(redis_url: str) -> None:
    """The same acts at the same times leave the same tokens in both."""
    acts = [
        ("take", 0.0),
        ("take", 0.01),
        ("spend", 0.02),
        ("halve", 0.5),
        ("take", 0.3),
        ("halve", 2.0),
        ("take", 7.0),
    ]
    full = {"rate": 1.0, "background": 16.0, "live": 4.0}
    bucket = Bucket(terms=TERMS, at=0.0, **full)
    with closing(redis.Redis.from_url(redis_url, decode_responses=True)) as client:

        async def script(budget: Budget) -> None:
            now = 0.0
            for act, passed in acts:
                now += passed
                for name in ("at", "halved_at"):
                    if client.exists(KEY + SCOPE):
                        client.hincrbyfloat(KEY + SCOPE, name, -passed)
                bucket.settle(now)
                if act == "take":
                    assert (await budget.take(SCOPE) > 0) == (bucket.take() > 0)
                elif act == "spend":
                    await budget.spend(SCOPE, 9)
                    bucket.spend(9)
                else:
                    await budget.slow_down(SCOPE)
                    bucket.halve()
                left = await look(budget)
                assert left.rate == pytest.approx(bucket.rate, abs=0.02)
                assert left.background == pytest.approx(bucket.background, abs=0.5)
                assert left.live == pytest.approx(bucket.live, abs=0.2)

        play(SharedBudget(redis_url, TERMS, alone=LocalBudget(TERMS)), script)
