"""What is AWS's alone: which calls are made, with which permissions, and which key a failure is of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from schemas.errors import MalformedMainKeyUri
from schemas.keys import MainKeyUri
from workers.embedded.simulator import SimulatorClient
from workers.errors import Cause, KmsRefused, KmsUnreachable, WrapReason, WrapRefused
from workers.kms.aws.main_key import AwsKms

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


def test_a_new_wrap_that_opens_to_something_else_is_not_returned(
    simulator: SimulatorClient, kms: AwsKms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrap is opened and compared before anybody gets it (R6): a KMS that wraps something else is caught."""
    key = kms.main_key(simulator.create_main_key())
    original = kms.call

    async def twisted(operation: str, *arguments: Any) -> dict[str, Any]:
        answer = await original(operation, *arguments)
        return {**answer, "Plaintext": bytes(32)} if operation == "Decrypt" else answer

    monkeypatch.setattr(kms, "call", twisted)

    async def play() -> None:
        for call in (lambda: key.wrap(MATERIAL, CONTEXT), lambda: key.generate(CONTEXT)):
            with pytest.raises(WrapRefused) as caught:
                await call()
            assert caught.value.reason is WrapReason.WRONG_FINGERPRINT

    run(kms, play)
