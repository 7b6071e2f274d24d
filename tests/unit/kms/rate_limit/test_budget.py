"""Who waits for a KMS's budget and who does not, and what the adapters tell it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest

from schemas.keys import MainKeyUri
from tests.poll import stretched
from workers.embedded.simulator import SimulatorClient
from workers.errors import Cause, KmsBudgetSpent, KmsRefused, KmsThrottled
from workers.kms.aws.access import RoleToAssume
from workers.kms.aws.main_key import AwsKms, budget_scope
from workers.kms.port import encryption_context
from workers.kms.rate_limit.budget import LocalBudget, RateLimiter, Terms, background, is_background, live
from workers.kms.rate_limit.concurrency import CallLimiter
from workers.runtime.event_loop import LoopThread

URI = MainKeyUri.parse("memory:a")
TERMS = Terms(rate=20.0, burst=10.0, live_share=0.2)
CONTEXT = encryption_context(uuid4(), uuid4())


def metered(**terms: float) -> RateLimiter:
    return RateLimiter(
        budget=LocalBudget(Terms(**({"rate": 20.0, "burst": 10.0, "live_share": 0.2} | terms))), patience=0.5
    )


def run(kms: AwsKms, rate_limiter: RateLimiter, play: Callable[[], Awaitable[Any]]) -> Any:
    async def closed() -> Any:
        try:
            return await play()
        finally:
            await kms.close()
            await rate_limiter.close()

    return asyncio.run(closed())


def test_a_background_call_waits_for_its_turn() -> None:
    """At 20 calls a second, of which 16 are theirs, 8 of 16 calls have to wait: half a second."""

    async def play() -> float:
        rate_limiter, started = RateLimiter(budget=LocalBudget(TERMS), patience=5), time.monotonic()
        with background():
            await asyncio.gather(*(rate_limiter.admit("s", URI, "Encrypt") for _ in range(16)))
        return time.monotonic() - started

    assert asyncio.run(play()) >= 0.4


def test_a_live_call_never_waits_and_is_counted() -> None:
    """With the budget spent and a line of background calls before it, a live call goes through at once."""

    async def play() -> tuple[float, int]:
        rate_limiter = metered()
        with background():
            line = [asyncio.create_task(rate_limiter.admit("s", URI, "Encrypt")) for _ in range(30)]
        await asyncio.sleep(0)
        started = time.monotonic()
        for _ in range(100):
            await rate_limiter.admit("s", URI, "Decrypt")
        took = time.monotonic() - started
        spent = sum(isinstance(each, KmsBudgetSpent) for each in await asyncio.gather(*line, return_exceptions=True))
        return took, spent

    took, spent = asyncio.run(play())
    assert took < stretched(0.2)
    assert spent >= 20, "what the live calls took, the others did without"


def test_who_waits_too_long_is_told_that_nobody_asked() -> None:
    """Past its patience a background call fails as one that was not made: the KMS said nothing about the key."""

    async def play() -> float:
        rate_limiter = metered(rate=0.5, burst=1.0)
        started = time.monotonic()
        with background():
            await rate_limiter.admit("s", URI, "Encrypt")
            with pytest.raises(KmsBudgetSpent, match="the one of s, and") as caught:
                await rate_limiter.admit("s", URI, "Encrypt")
        assert isinstance(caught.value, KmsThrottled)
        return time.monotonic() - started

    assert 0.4 <= asyncio.run(play()) < stretched(2)


def test_who_calls_is_known_on_the_loop_of_another_thread() -> None:
    """Calls run on the process's loop: whether their caller can wait goes with them."""

    async def ask() -> bool:
        return is_background()

    loop = LoopThread()
    try:
        with background():
            assert loop.run(ask())
            with live():
                assert not loop.run(ask())
            assert loop.run(ask())
        assert not loop.run(ask())
    finally:
        loop.close()


def test_every_throttled_try_slows_down_and_every_repeat_is_counted(simulator: SimulatorClient) -> None:
    """The SDK repeats by itself: two throttled tries of one call that succeeds are heard, and counted."""
    rate_limiter = metered(rate=1.0, burst=100.0)
    kms = AwsKms(rate_limiter=rate_limiter)
    key = kms.main_key(simulator.create_main_key(region="eu-west-1"))

    async def play() -> Any:
        await key.describe()
        simulator.inject("throttle", operation="DescribeKey", count=2)
        await key.describe()
        await asyncio.sleep(0.01)
        assert rate_limiter.budget is not None
        return await rate_limiter.budget.left()

    (left,) = run(kms, rate_limiter, play)
    assert left.scope == "aws-kms:own/eu-west-1"
    assert left.rate < 0.6, "halved"
    assert left.live < 18, "two calls and two repeats, of a share of 20"
    assert kms.calls["DescribeKey"] == 4


def test_background_calls_to_aws_wait_and_live_ones_do_not(simulator: SimulatorClient) -> None:
    """The adapter asks before each call: with nothing left a move waits, and a read beside it does not."""
    rate_limiter = metered(rate=1.0, burst=2.0)
    kms = AwsKms(rate_limiter=rate_limiter)
    key = kms.main_key(simulator.create_main_key())

    async def play() -> None:
        _, wrap = await key.generate(CONTEXT)
        with background(), pytest.raises(KmsBudgetSpent):
            await key.unwrap(wrap.blob, CONTEXT)
        await key.unwrap(wrap.blob, CONTEXT)

    run(kms, rate_limiter, play)


def test_a_refusal_is_looked_into_though_nothing_is_left(simulator: SimulatorClient) -> None:
    """A refused move asks which key refuses and why: without a turn for that it would pass for a KMS that is away."""
    rate_limiter = metered(rate=1.0, burst=3.0)
    kms = AwsKms(rate_limiter=rate_limiter, attempts=1)
    old, new = simulator.create_main_key(), simulator.create_main_key()

    async def play() -> None:
        _, wrap = await kms.main_key(old).generate(CONTEXT)
        simulator.set_state(new.name, "Disabled")
        assert rate_limiter.budget is not None
        (left,) = await rate_limiter.budget.left()
        assert 1 <= left.background < 2, "one call, the move's own"
        with background(), pytest.raises(KmsRefused) as caught:
            await kms.main_key(new).rewrap(wrap.blob, CONTEXT, old)
        assert (caught.value.cause, caught.value.main_key) == (Cause.DISABLED, str(new))

    run(kms, rate_limiter, play)


def test_an_assumed_roles_account_pays() -> None:
    """KMS throttles the caller's account: with a role that is the role's, whoever owns the key."""
    role = RoleToAssume(arn="arn:aws:iam::444455556666:role/keyrepack")
    assert budget_scope("eu-west-1", None) == "aws-kms:own/eu-west-1"
    assert budget_scope("eu-west-1", role) == "aws-kms:444455556666/eu-west-1"


def test_a_place_is_kept_for_live_calls() -> None:
    """However many background calls are under way, a live one finds a place."""

    async def play() -> None:
        room, held = CallLimiter(4), asyncio.Event()

        async def hold() -> None:
            async with room.enter():
                await held.wait()

        with background():
            holders = [asyncio.create_task(hold()) for _ in range(10)]
        await asyncio.sleep(0.01)
        async with asyncio.timeout(1), room.enter():
            pass
        held.set()
        await asyncio.gather(*holders)

    asyncio.run(play())
