"""Faults: each does what it says, to the calls it is meant for, as often as it is meant to."""

from __future__ import annotations

import time
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from workers.embedded.simulator import SimulatorClient, SimulatorRefused


def succeeds(call: Any) -> bool:
    try:
        call()
    except ClientError:
        return False
    return True


def test_an_error_is_answered(simulator: SimulatorClient, kms: Any, arn: str) -> None:
    """An error fault answers with its code, and the status AWS gives it."""
    simulator.inject("error", code="DependencyTimeoutException", message="why", count=1)
    with pytest.raises(ClientError) as caught:
        kms.describe_key(KeyId=arn)
    assert caught.value.response["Error"] == {"Code": "DependencyTimeoutException", "Message": "why"}
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    kms.describe_key(KeyId=arn)


def test_throttling_is_answered(simulator: SimulatorClient, kms: Any, arn: str) -> None:
    """A throttle answers with ThrottlingException."""
    simulator.inject("throttle", count=1)
    with pytest.raises(ClientError, match="ThrottlingException"):
        kms.describe_key(KeyId=arn)


def test_a_dropped_connection_has_no_answer(simulator: SimulatorClient, kms: Any, arn: str) -> None:
    """A drop closes the connection without an answer."""
    simulator.inject("drop", count=1)
    with pytest.raises(ConnectionClosedError):
        kms.describe_key(KeyId=arn)


def test_a_hanging_call_has_no_answer(simulator: SimulatorClient, kms: Any, client_of: Any, arn: str) -> None:
    """A hang is never answered, and holds nobody else up."""
    simulator.inject("hang", key=arn, count=1)
    with pytest.raises(ReadTimeoutError):
        client_of(patience=0.5).describe_key(KeyId=arn)
    kms.describe_key(KeyId=arn)


def test_a_delayed_call_is_answered_late(simulator: SimulatorClient, kms: Any, arn: str) -> None:
    """A delay answers rightly, later."""
    simulator.inject("delay", seconds=0.2, operation="DescribeKey", count=1)
    began = time.monotonic()
    assert kms.describe_key(KeyId=arn)["KeyMetadata"]["Arn"] == arn
    assert time.monotonic() - began >= 0.2


def test_a_fault_befalls_what_it_names(simulator: SimulatorClient, kms: Any, arn: str) -> None:
    """A fault can be of one key, of one operation, or both; a ReEncrypt is befallen by either of its keys."""
    other = simulator.create_key()
    blob = kms.encrypt(KeyId=arn, Plaintext=b"x")["CiphertextBlob"]
    simulator.inject("throttle", key=arn, operation="Decrypt")
    simulator.inject("throttle", key=arn, operation="ReEncrypt")
    assert succeeds(lambda: kms.describe_key(KeyId=arn))
    assert succeeds(lambda: kms.encrypt(KeyId=other, Plaintext=b"x"))
    assert not succeeds(lambda: kms.decrypt(KeyId=arn, CiphertextBlob=blob))
    assert not succeeds(lambda: kms.decrypt(CiphertextBlob=blob))
    assert not succeeds(lambda: kms.re_encrypt(CiphertextBlob=blob, SourceKeyId=arn, DestinationKeyId=other))
    assert not succeeds(lambda: kms.re_encrypt(CiphertextBlob=blob, SourceKeyId=other, DestinationKeyId=arn))


def test_a_fault_names_a_key_however_it_is_called(simulator: SimulatorClient, owner: Any, arn: str) -> None:
    """A key's fault befalls calls by its ARN, its id or its alias."""
    owner.create_alias(AliasName="alias/main", TargetKeyId=arn.rpartition("/")[2])
    simulator.inject("throttle", key=arn)
    for name in (arn, arn.rpartition("/")[2], "alias/main"):
        assert not succeeds(lambda name=name: owner.describe_key(KeyId=name))


def test_a_counted_fault_ends_by_itself(simulator: SimulatorClient, kms: Any, arn: str) -> None:
    """A fault with a count befalls so many calls, then is gone."""
    simulator.inject("throttle", count=2)
    assert [succeeds(lambda: kms.describe_key(KeyId=arn)) for _ in range(3)] == [False, False, True]
    assert simulator.request("GET", "faults") == []


def test_faults_are_cleared_by_number_by_key_and_all(simulator: SimulatorClient, arn: str) -> None:
    """Clearing ends one fault, those of a key, or every one."""
    other = simulator.create_key()
    numbers = [simulator.inject("throttle", key=key) for key in (arn, arn, other, other)]
    assert simulator.clear_faults(number=numbers[0]) == 1
    assert simulator.clear_faults(key=arn) == 1
    assert simulator.clear_faults() == 2


@pytest.mark.parametrize(
    "wrong", [{"kind": "flood"}, {"kind": "throttle", "count": 0}, {"kind": "throttle", "unheard": 1}, {}]
)
def test_what_is_no_fault_is_refused(simulator: SimulatorClient, wrong: dict[str, Any]) -> None:
    """A fault of unknown kind, with unknown fields or no count to speak of is refused, and nothing is put in force."""
    with pytest.raises(SimulatorRefused):
        simulator.request("POST", "faults", wrong)
    assert simulator.request("GET", "faults") == []
