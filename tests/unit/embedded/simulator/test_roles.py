"""STS AssumeRole: whom a role lets in, for how long, and whose calls its credentials make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

from workers.embedded.simulator import SimulatorClient, SimulatorRefused

OWNER, COMPANY = "111122223333", "123456789012"
ROLE = f"arn:aws:iam::{OWNER}:role/team/keyrepack"
SESSION = {"RoleArn": ROLE, "RoleSessionName": "keyrepack"}
ONCE = Config(retries={"total_max_attempts": 1})


@pytest.fixture
def sts(simulator: SimulatorClient) -> Any:
    return sts_of(simulator)


def sts_of(simulator: SimulatorClient, account: str = COMPANY, region: str = "eu-west-1") -> Any:
    keys = {"aws_access_key_id": account, "aws_secret_access_key": "none"}
    return boto3.client("sts", endpoint_url=simulator.url, region_name=region, config=ONCE, **keys)


def kms_with(simulator: SimulatorClient, credentials: dict[str, Any]) -> Any:
    return boto3.client(
        "kms",
        endpoint_url=simulator.url,
        region_name="eu-west-1",
        config=ONCE,
        aws_access_key_id=credentials["AccessKeyId"],
        aws_secret_access_key=credentials["SecretAccessKey"],
        aws_session_token=credentials["SessionToken"],
    )


def code_of(call: Callable[[], Any]) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    return str(caught.value.response["Error"]["Code"])


def test_an_assumed_role_calls_as_its_account(simulator: SimulatorClient, sts: Any) -> None:
    """A key that lets in its owner alone is open to a role of that account, and to nobody else."""
    key = simulator.create_key(account=OWNER, allow=[])
    simulator.put_role(ROLE)
    answer = sts.assume_role(**SESSION)
    assert answer["AssumedRoleUser"]["Arn"] == f"arn:aws:sts::{OWNER}:assumed-role/keyrepack/keyrepack"
    assert kms_with(simulator, answer["Credentials"]).describe_key(KeyId=key)["KeyMetadata"]["Arn"] == key
    plain = {"AccessKeyId": COMPANY, "SecretAccessKey": "none", "SessionToken": None}
    assert code_of(lambda: kms_with(simulator, plain).describe_key(KeyId=key)) == "AccessDeniedException"


@pytest.mark.parametrize(
    ("role", "given", "allowed"),
    [
        ({"external_id": "e-1"}, {"ExternalId": "e-1"}, True),
        ({"external_id": "e-1"}, {"ExternalId": "e-2"}, False),
        ({"external_id": "e-1"}, {}, False),
        ({}, {"ExternalId": "e-1"}, True),
        ({"trusts": ["444455556666"]}, {}, False),
        (None, {}, False),
    ],
)
def test_a_role_lets_in_whom_it_trusts(
    simulator: SimulatorClient, sts: Any, role: dict[str, Any] | None, given: dict[str, str], allowed: bool
) -> None:
    """The caller's account and, where the role asks for one, the external id decide; an unknown role lets in nobody."""
    if role is not None:
        simulator.put_role(ROLE, **role)
    if allowed:
        sts.assume_role(**SESSION, **given)
    else:
        assert code_of(lambda: sts.assume_role(**SESSION, **given)) == "AccessDenied"


def test_credentials_expire(simulator: SimulatorClient, sts: Any) -> None:
    """Credentials live as long as was asked for, by the simulator's clock; those of a deleted role too."""
    key = simulator.create_key(account=OWNER)
    simulator.put_role(ROLE)
    kms = kms_with(simulator, sts.assume_role(**SESSION, DurationSeconds=900)["Credentials"])
    simulator.delete_role(ROLE)
    simulator.advance_clock(seconds=890)
    kms.describe_key(KeyId=key)
    simulator.advance_clock(seconds=20)
    assert code_of(lambda: kms.describe_key(KeyId=key)) == "ExpiredTokenException"


def test_made_up_credentials_are_nobodys(simulator: SimulatorClient, sts: Any) -> None:
    """A session that never was, and another's token, are not recognised."""
    key = simulator.create_key(account=OWNER)
    simulator.put_role(ROLE)
    mine, other = (sts.assume_role(**SESSION)["Credentials"] for _ in range(2))
    for wrong in ({**mine, "AccessKeyId": "ASIA0"}, {**mine, "SessionToken": other["SessionToken"]}):
        assert code_of(lambda wrong=wrong: kms_with(simulator, wrong).describe_key(KeyId=key)) == (
            "UnrecognizedClientException"
        )


def test_what_sts_does_not_take(simulator: SimulatorClient, sts: Any) -> None:
    """Other actions and times out of range are refused; a role is named by a role's ARN."""
    simulator.put_role(ROLE)
    assert code_of(sts.get_caller_identity) == "InvalidAction"
    assert code_of(lambda: sts.assume_role(**SESSION, DurationSeconds=43_201)) == "ValidationError"
    with pytest.raises(SimulatorRefused, match="not a role"):
        simulator.put_role("arn:aws:iam::1:role/x")


def test_sts_is_counted_and_befallen_by_faults(simulator: SimulatorClient, sts: Any) -> None:
    """Calls to STS count by role; a region's fault befalls its STS, and no other region's."""
    simulator.put_role(ROLE)
    simulator.inject("error", operation="AssumeRole", code="Throttling", count=1)
    assert code_of(lambda: sts.assume_role(**SESSION)) == "Throttling"
    assert simulator.calls()["by_key"] == {ROLE: {"AssumeRole": 1}}
    simulator.inject("drop", region="eu-west-1")
    with pytest.raises(ConnectionClosedError):
        sts.assume_role(**SESSION)
    sts_of(simulator, region="eu-central-1").assume_role(**SESSION)
