"""What is AWS's alone: which calls are made, how many at once, how long, and whose failure it was."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from schemas.errors import MalformedMainKeyUri
from schemas.keys import MainKeyUri
from workers.embedded.simulator import SimulatorClient
from workers.errors import Cause, KmsRefused, KmsThrottled, KmsUnreachable, WrapReason, WrapRefused
from workers.kms.aws import AwsKms
from workers.kms.aws_clients import silence_sdk

MATERIAL = bytes(range(32))
CONTEXT = {"keyrepack:key": "1"}
COMPANY = "123456789012"


def run(kms: AwsKms, play: Callable[[], Awaitable[Any]]) -> Any:
    async def closed() -> Any:
        try:
            return await play()
        finally:
            await kms.close()

    return asyncio.run(closed())


def statement(*actions: str) -> dict[str, Any]:
    return {"Effect": "Allow", "Principal": {"AWS": COMPANY}, "Action": [f"kms:{action}" for action in actions]}


@pytest.fixture
def kms() -> AwsKms:
    return AwsKms(attempts=1)


def test_how_many_calls_each_operation_costs(simulator: SimulatorClient, kms: AwsKms) -> None:
    """Unwrap, rewrap and describe are one call; generate and wrap are two, the second to open and compare (R6)."""
    key = kms.main_key(simulator.create_main_key())

    async def play() -> dict[str, dict[str, int]]:
        made, wrap = await key.generate(CONTEXT)
        seen = {}
        for name, call in {
            "describe": key.describe,
            "generate": lambda: key.generate(CONTEXT),
            "wrap": lambda: key.wrap(made.material, CONTEXT),
            "unwrap": lambda: key.unwrap(wrap.blob, CONTEXT),
            "rewrap": lambda: key.rewrap(wrap.blob, CONTEXT, key.uri),
        }.items():
            kms.calls.clear()
            await call()
            seen[name] = dict(kms.calls)
        return seen

    assert run(kms, play) == {
        "describe": {"DescribeKey": 1},
        "generate": {"GenerateDataKey": 1, "Decrypt": 1},
        "wrap": {"Encrypt": 1, "Decrypt": 1},
        "unwrap": {"Decrypt": 1},
        "rewrap": {"ReEncrypt": 1},
    }


def test_a_root_moves_with_least_privilege(simulator: SimulatorClient, kms: AwsKms) -> None:
    """A move takes ReEncryptFrom on the old key and ReEncryptTo on the new, and nothing else of either."""
    old, new = kms.main_key(simulator.create_main_key()), kms.main_key(simulator.create_main_key())

    async def play() -> None:
        wrap = await old.wrap(MATERIAL, CONTEXT)
        simulator.set_policy(old.uri.name, {"Statement": [statement("ReEncryptFrom")]})
        simulator.set_policy(new.uri.name, {"Statement": [statement("ReEncryptTo")]})
        moved = await new.rewrap(wrap.blob, CONTEXT, old.uri)
        assert moved.generation
        simulator.allow(new.uri.name, COMPANY)
        assert (await new.unwrap(moved.blob, CONTEXT)).material == MATERIAL

    run(kms, play)


@pytest.mark.parametrize(("missing", "refuser"), [("ReEncryptFrom", "old"), ("ReEncryptTo", "new")])
def test_a_denied_move_names_the_key_whose_policy_denies(
    simulator: SimulatorClient, kms: AwsKms, missing: str, refuser: str
) -> None:
    """Both keys can be described: AWS's own words tell which policy lacks which action."""
    keys = {"old": kms.main_key(simulator.create_main_key()), "new": kms.main_key(simulator.create_main_key())}

    async def play() -> KmsRefused:
        wrap = await keys["old"].wrap(MATERIAL, CONTEXT)
        for key in keys.values():
            allowed = [action for action in ("DescribeKey", "ReEncryptFrom", "ReEncryptTo") if action != missing]
            simulator.set_policy(key.uri.name, {"Statement": [statement(*allowed)]})
        with pytest.raises(KmsRefused) as caught:
            await keys["new"].rewrap(wrap.blob, CONTEXT, keys["old"].uri)
        return caught.value

    error = run(kms, play)
    assert (error.cause, error.main_key) == (Cause.DENIED, str(keys[refuser].uri))
    assert missing in str(error)


@pytest.mark.parametrize(("state", "cause"), [("Disabled", Cause.DISABLED), ("PendingDeletion", Cause.UNAVAILABLE)])
def test_a_state_is_believed_where_the_key_may_not_be_described(
    simulator: SimulatorClient, kms: AwsKms, state: str, cause: Cause
) -> None:
    """Without kms:DescribeKey the refusal still stands, with as much as its code tells."""
    old, new = kms.main_key(simulator.create_main_key()), kms.main_key(simulator.create_main_key())

    async def play() -> None:
        wrap = await old.wrap(MATERIAL, CONTEXT)
        simulator.set_policy(old.uri.name, {"Statement": [statement("Decrypt", "ReEncryptFrom")]})
        simulator.set_state(old.uri.name, state)
        with pytest.raises(KmsRefused) as alone:
            await old.unwrap(wrap.blob, CONTEXT)
        with pytest.raises(KmsRefused) as moving:
            await new.rewrap(wrap.blob, CONTEXT, old.uri)
        for caught in (alone, moving):
            assert (caught.value.cause, caught.value.main_key) == (cause, str(old.uri))

    run(kms, play)


@pytest.mark.parametrize("code", ["DisabledException", "KMSInvalidStateException"])
def test_a_refusal_that_describe_key_contradicts_is_not_believed(
    simulator: SimulatorClient, kms: AwsKms, code: str
) -> None:
    """A key that was enabled between the call and the question is tried again; nothing is locked for it."""
    key = kms.main_key(simulator.create_main_key())

    async def play() -> None:
        simulator.inject("error", code=code, operation="GenerateDataKey", count=1)
        with pytest.raises(KmsUnreachable):
            await key.generate(CONTEXT)
        await key.generate(CONTEXT)

    run(kms, play)


def test_a_classification_that_gets_no_answer_concludes_nothing(simulator: SimulatorClient, kms: AwsKms) -> None:
    """A refusal by state, and then a KMS that does not answer which state: unreachable."""
    key = kms.main_key(simulator.create_main_key())
    simulator.set_state(key.uri.name, "PendingDeletion")
    simulator.inject("drop", operation="DescribeKey")

    async def play() -> None:
        with pytest.raises(KmsUnreachable):
            await key.generate(CONTEXT)

    run(kms, play)


@pytest.mark.parametrize(("spec", "usage"), [("RSA_2048", "ENCRYPT_DECRYPT"), ("HMAC_256", "GENERATE_VERIFY_MAC")])
def test_a_key_of_another_kind_is_refused(simulator: SimulatorClient, kms: AwsKms, spec: str, usage: str) -> None:
    """An asymmetric or HMAC key is of wrong usage, described or used."""
    key = kms.main_key(simulator.create_main_key(key_spec=spec, key_usage=usage))

    async def play() -> None:
        for call in (key.describe, lambda: key.generate(CONTEXT)):
            with pytest.raises(KmsRefused) as caught:
                await call()
            assert caught.value.cause is Cause.WRONG_USAGE

    run(kms, play)


def test_a_blob_of_something_else_is_not_one_of_ours(simulator: SimulatorClient, kms: AwsKms) -> None:
    """A blob that opens to anything but 32 bytes is refused as malformed, not handed on."""
    key = kms.main_key(simulator.create_main_key())

    async def play() -> None:
        parameters = {"KeyId": key.uri.name, "Plaintext": b"short", "EncryptionContext": CONTEXT}
        blob = (await kms.call("Encrypt", "eu-west-1", parameters))["CiphertextBlob"]
        with pytest.raises(WrapRefused) as caught:
            await key.unwrap(blob, CONTEXT)
        assert caught.value.reason is WrapReason.MALFORMED

    run(kms, play)


@pytest.mark.parametrize(
    ("source", "possible"),
    [
        ("aws-kms:arn:aws:kms:eu-west-1:444455556666:key/mrk-" + "0" * 32, True),
        ("aws-kms:arn:aws:kms:eu-west-2:111122223333:key/mrk-" + "0" * 32, False),
        ("aws-kms:arn:aws-cn:kms:eu-west-1:111122223333:key/mrk-" + "0" * 32, False),
        ("managed:", False),
        ("memory:a", False),
    ],
)
def test_reencrypt_sees_one_region_of_one_partition(kms: AwsKms, source: str, possible: bool) -> None:
    """A wrap is moved inside KMS from any account of the same region and partition, and from nowhere else."""
    key = kms.main_key(MainKeyUri.parse("aws-kms:arn:aws:kms:eu-west-1:111122223333:key/mrk-" + "1" * 32))
    assert key.can_rewrap_from(MainKeyUri.parse(source)) is possible


def test_another_scheme_is_no_aws_key(kms: AwsKms) -> None:
    """A URI of another scheme is malformed here."""
    with pytest.raises(MalformedMainKeyUri):
        kms.main_key(MainKeyUri.parse("memory:a"))


def test_keys_of_two_regions_are_served_side_by_side(simulator: SimulatorClient, kms: AwsKms) -> None:
    """Each key is asked for in the region that its ARN names."""
    keys = [kms.main_key(simulator.create_main_key(region=region)) for region in ("eu-west-1", "us-east-1")]

    async def play() -> None:
        for key in keys:
            await key.describe()

    run(kms, play)


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
    assert took[2] >= 1.2 > took[6]


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
        assert time.monotonic() - began < 4  # READ_SECONDS is more

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
    import aioboto3

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


def test_a_new_wrap_that_opens_to_something_else_is_not_returned(
    simulator: SimulatorClient, kms: AwsKms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrap is opened and compared before anybody gets it (R6): a KMS that wraps something else is caught."""
    key = kms.main_key(simulator.create_main_key())
    original = kms.call

    async def twisted(operation: str, region: str, parameters: dict[str, Any]) -> dict[str, Any]:
        answer = await original(operation, region, parameters)
        return {**answer, "Plaintext": bytes(32)} if operation == "Decrypt" else answer

    monkeypatch.setattr(kms, "call", twisted)

    async def play() -> None:
        for call in (lambda: key.wrap(MATERIAL, CONTEXT), lambda: key.generate(CONTEXT)):
            with pytest.raises(WrapRefused) as caught:
                await call()
            assert caught.value.reason is WrapReason.WRONG_FINGERPRINT

    run(kms, play)
