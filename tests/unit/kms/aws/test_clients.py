"""AWS's clients: how many calls at once, for how long, how often again, on which loop, and what they log."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aioboto3
import pytest

from tests.poll import stretched
from workers.embedded.simulator import SimulatorClient
from workers.errors import KmsThrottled, KmsUnreachable
from workers.kms.aws.clients import silence_sdk
from workers.kms.aws.main_key import AwsKms
from workers.kms.aws.sessions import new_session

CONTEXT = {"keyrepack:key": "1"}


def run(kms: AwsKms, play: Callable[[], Awaitable[Any]]) -> Any:
    async def closed() -> Any:
        try:
            return await play()
        finally:
            await kms.close()

    return asyncio.run(closed())


def test_no_more_calls_at_once_than_set(simulator: SimulatorClient) -> None:
    """With room for 2, six calls of 0.4 s take three rounds; with room for 6, one."""
    took = {}
    for room in (2, 6):
        kms = AwsKms(concurrency=room, attempts=1)
        key = kms.main_key(simulator.create_main_key())

        async def play(key: Any = key) -> float:
            await key.describe()
            number = simulator.inject("delay", seconds=0.4, operation="DescribeKey")
            began = time.monotonic()
            await asyncio.gather(*[key.describe() for _ in range(6)])
            simulator.clear_faults(number=number)
            return time.monotonic() - began

        took[room] = run(kms, play)
    assert took[2] >= 1.2
    assert took[6] < stretched(1.2)


def test_a_call_ends_in_time(simulator: SimulatorClient) -> None:
    """A KMS that never answers is unreachable once the time for a call is over; waiting for room does not count."""
    kms = AwsKms(concurrency=1, timeout_seconds=1.0)
    key = kms.main_key(simulator.create_main_key())

    async def play() -> None:
        await key.describe()
        simulator.inject("delay", seconds=0.5, operation="DescribeKey", count=3)
        await asyncio.gather(*[key.describe() for _ in range(3)])
        simulator.inject("hang", operation="DescribeKey")
        began = time.monotonic()
        with pytest.raises(KmsUnreachable):
            await key.describe()
        assert time.monotonic() - began < stretched(4)  # READ_SECONDS is more

    run(kms, play)


@pytest.mark.parametrize("kind", ["throttle", "drop"])
def test_a_passing_fault_is_not_seen_and_its_retries_are_counted(simulator: SimulatorClient, kind: str) -> None:
    """What passes within a call's attempts is nobody's business, but `calls` counts what AWS's quota counts."""
    kms = AwsKms(attempts=3)
    key = kms.main_key(simulator.create_main_key())

    async def play() -> None:
        simulator.inject(kind, operation="DescribeKey", count=1)
        await key.describe()

    run(kms, play)
    assert kms.calls == {"DescribeKey": 2} == simulator.calls()["by_operation"]


def test_lasting_throttling_is_told_after_the_last_attempt(simulator: SimulatorClient) -> None:
    """Throttling that outlasts the attempts reaches the caller as throttling, not as a timeout."""
    kms = AwsKms(attempts=2)
    key = kms.main_key(simulator.create_main_key())
    simulator.inject("throttle")

    async def play() -> None:
        with pytest.raises(KmsThrottled):
            await key.describe()

    run(kms, play)
    assert kms.calls == {"DescribeKey": 2}


def test_nobody_listening_is_unreachable(simulator: SimulatorClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """No KMS at the endpoint is no answer."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:9")
    kms = AwsKms(attempts=1)
    key = kms.main_key(simulator.create_main_key())

    async def play() -> None:
        with pytest.raises(KmsUnreachable):
            await key.describe()

    run(kms, play)


def test_missing_credentials_lock_nobody_out(simulator: SimulatorClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials of our own nothing is concluded about the customer's key."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    kms = AwsKms(attempts=1)
    key = kms.main_key(simulator.create_main_key())

    async def play() -> None:
        with pytest.raises(KmsUnreachable, match="NoCredentialsError"):
            await key.describe()

    run(kms, play)


def test_the_sdk_logs_no_plaintext(simulator: SimulatorClient, caplog: Any) -> None:
    """At the most talkative level the SDK's loggers say nothing of requests and answers (R10)."""
    caplog.set_level(logging.DEBUG)
    kms = AwsKms(attempts=1)
    key = kms.main_key(simulator.create_main_key())

    async def play() -> bytes:
        made, _ = await key.generate(CONTEXT)
        await key.wrap(made.material, CONTEXT)
        return bytes(made.material)

    run(kms, play)
    assert not [record for record in caplog.records if record.name.startswith(("botocore", "aiobotocore"))]


def test_loggers_that_are_quieter_already_stay_so() -> None:
    """Silencing the SDK makes no logger more talkative."""
    logger = logging.getLogger("botocore")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    silence_sdk()
    assert logger.level == logging.CRITICAL
    logger.setLevel(before)


def test_each_event_loop_has_clients_of_its_own(simulator: SimulatorClient) -> None:
    """One provider used from two loops, one after the other and at once, works and closes cleanly."""
    kms = AwsKms(attempts=1)
    key = kms.main_key(simulator.create_main_key())
    other = asyncio.new_event_loop()
    thread = threading.Thread(target=other.run_forever)
    thread.start()

    async def play() -> None:
        await key.describe()
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(key.describe(), other))
        await key.describe()

    try:
        run(kms, play)
        run(kms, play)
    finally:
        other.call_soon_threadsafe(other.stop)
        thread.join()
        other.close()
    assert kms.calls == {"DescribeKey": 6}


def test_many_calls_at_once_open_one_client(simulator: SimulatorClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that start together on a fresh process share the client that the first opens."""
    opened: list[str] = []
    original = aioboto3.Session.client

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        opened.append(options["region_name"])
        return original(self, *arguments, **options)

    monkeypatch.setattr(aioboto3.Session, "client", counted)
    kms = AwsKms(attempts=1)
    key = kms.main_key(simulator.create_main_key())

    async def play() -> None:
        await asyncio.gather(*[key.describe() for _ in range(8)])

    run(kms, play)
    assert opened == ["eu-west-1"]


def test_sessions_share_the_loader_of_models() -> None:
    """The models of AWS's APIs are parsed once a process, not once a role: that is most of a client's memory."""
    one, two = new_session(), new_session()
    assert one is not two
    assert one.get_component("data_loader") is two.get_component("data_loader")
