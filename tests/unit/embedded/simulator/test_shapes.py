"""Every answer of the simulator has the shape of botocore's model: nothing missing in type, nothing beside it."""

from __future__ import annotations

import base64
import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import botocore.session
import pytest

from workers.embedded.simulator import SimulatorClient

MODEL = botocore.session.get_session().get_service_model("kms")
BLOB = base64.b64encode(bytes(32)).decode()
MATERIAL_ID = re.compile(r"[0-9a-f]{64}")


def post(simulator: SimulatorClient, operation: str, **parameters: Any) -> Any:
    """Make a call by hand: an SDK would drop what its model does not know."""
    headers = {
        "X-Amz-Target": f"TrentService.{operation}",
        "Authorization": "AWS4-HMAC-SHA256 Credential=123456789012/20260101/eu-west-1/kms/aws4_request, Signature=0",
    }
    request = urllib.request.Request(simulator.url, json.dumps(parameters).encode(), headers)
    with urllib.request.urlopen(request) as response:
        return json.loads(response.read() or b"null")


def faults_of(shape: Any, value: Any, path: str = "answer") -> Iterator[str]:
    """Every way in which `value` is not of `shape`."""
    match shape.type_name:
        case "structure":
            if not isinstance(value, dict):
                yield f"{path} is no structure"
                return
            yield from (f"{path}.{name} is unknown" for name in value if name not in shape.members)
            yield from (f"{path}.{name} is missing" for name in shape.required_members if name not in value)
            for name in value.keys() & shape.members.keys():
                yield from faults_of(shape.members[name], value[name], f"{path}.{name}")
        case "list":
            for number, each in enumerate(value):
                yield from faults_of(shape.member, each, f"{path}[{number}]")
        case "blob":
            base64.b64decode(value, validate=True)
        case "string":
            if not isinstance(value, str) or (shape.enum and value not in shape.enum):
                yield f"{path} is {value!r}"
        case kind:
            types = {"boolean": bool, "integer": int, "timestamp": (int, float)}[kind]
            if not isinstance(value, types):
                yield f"{path} is {value!r}, not {kind}"


def require_shape(operation: str, answer: Any) -> None:
    shape = MODEL.operation_model(operation).output_shape
    faults = (
        list(faults_of(shape, answer)) if shape and shape.members else [] if answer in (None, {}) else ["not empty"]
    )
    assert faults == []


@pytest.fixture
def mine(simulator: SimulatorClient) -> str:
    """A key of the company's own account."""
    return simulator.create_key(region="eu-west-1")


def test_the_check_itself_finds_what_is_wrong() -> None:
    """An unknown member, a wrong type, a missing member and a value out of an enumeration are each found."""
    shape = MODEL.operation_model("DescribeKey").output_shape
    good = {"KeyId": "k", "KeyState": "Enabled", "Enabled": True}
    assert list(faults_of(shape, {"KeyMetadata": good})) == []
    for bad in ({"Unheard": 1}, {"KeyState": "Lost"}, {"Enabled": "yes"}, {"CreationDate": "now"}):
        assert list(faults_of(shape, {"KeyMetadata": {**good, **bad}}))
    assert list(faults_of(shape, {"KeyMetadata": {}}))


def test_cryptographic_answers(simulator: SimulatorClient, mine: str) -> None:
    """Encrypt, Decrypt, ReEncrypt and GenerateDataKey answer in shape; all but Encrypt with material ids."""
    encrypted = post(simulator, "Encrypt", KeyId=mine, Plaintext=BLOB)
    blob = encrypted["CiphertextBlob"]
    answers = {
        "Encrypt": encrypted,
        "Decrypt": post(simulator, "Decrypt", CiphertextBlob=blob),
        "ReEncrypt": post(simulator, "ReEncrypt", CiphertextBlob=blob, DestinationKeyId=mine),
        "GenerateDataKey": post(simulator, "GenerateDataKey", KeyId=mine, KeySpec="AES_256"),
        "GenerateDataKeyWithoutPlaintext": post(
            simulator, "GenerateDataKeyWithoutPlaintext", KeyId=mine, NumberOfBytes=24
        ),
    }
    for operation, answer in answers.items():
        require_shape(operation, answer)
    ids = {operation: {n for n in answer if n.endswith("KeyMaterialId")} for operation, answer in answers.items()}
    assert ids == {
        "Encrypt": set(),
        "Decrypt": {"KeyMaterialId"},
        "ReEncrypt": {"SourceKeyMaterialId", "DestinationKeyMaterialId"},
        "GenerateDataKey": {"KeyMaterialId"},
        "GenerateDataKeyWithoutPlaintext": {"KeyMaterialId"},
    }
    assert MATERIAL_ID.fullmatch(answers["Decrypt"]["KeyMaterialId"])
    assert answers["Decrypt"]["KeyId"] == mine


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"MultiRegion": True, "Description": "d", "Tags": [{"TagKey": "a", "TagValue": "b"}]},
        {"Origin": "EXTERNAL"},
        {"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"},
        {"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"},
        {"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"},
    ],
    ids=["symmetric", "multi-region", "external", "rsa", "ecc", "hmac"],
)
def test_keys_of_every_kind_are_described_in_shape(simulator: SimulatorClient, wanted: dict[str, Any]) -> None:
    """CreateKey and DescribeKey answer in shape for every kind of key; only symmetric ones tell their material."""
    created = post(simulator, "CreateKey", **wanted)
    described = post(simulator, "DescribeKey", KeyId=created["KeyMetadata"]["KeyId"])
    require_shape("CreateKey", created)
    require_shape("DescribeKey", described)
    assert created == described
    assert ("CurrentKeyMaterialId" in described["KeyMetadata"]) == ("KeySpec" not in wanted)


def test_lifecycle_answers(simulator: SimulatorClient, mine: str) -> None:
    """Enabling, disabling, deleting and rotating answer in shape, and DescribeKey stays in shape throughout."""
    for operation, parameters in [
        ("DisableKey", {}),
        ("EnableKey", {}),
        ("EnableKeyRotation", {"RotationPeriodInDays": 100}),
        ("GetKeyRotationStatus", {}),
        ("RotateKeyOnDemand", {}),
        ("ListKeyRotations", {}),
        ("ListKeyRotations", {"IncludeKeyMaterial": "ALL_KEY_MATERIAL", "Limit": 1}),
        ("DisableKeyRotation", {}),
        ("GetKeyRotationStatus", {}),
        ("ScheduleKeyDeletion", {"PendingWindowInDays": 7}),
        ("DescribeKey", {}),
        ("GetKeyRotationStatus", {}),
        ("CancelKeyDeletion", {}),
        ("DescribeKey", {}),
    ]:
        require_shape(operation, post(simulator, operation, KeyId=mine, **parameters))


def test_answers_of_moto_are_brought_into_shape(simulator: SimulatorClient, mine: str) -> None:
    """What moto answers (aliases, tags, policies, grants, lists) has no nulls and nothing unknown."""
    key_id = mine.rpartition("/")[2]
    for operation, parameters in [
        ("CreateAlias", {"AliasName": "alias/a", "TargetKeyId": mine}),
        ("ListAliases", {}),
        ("ListAliases", {"KeyId": key_id}),
        ("DescribeKey", {"KeyId": "alias/a"}),
        ("UpdateKeyDescription", {"KeyId": mine, "Description": "d"}),
        ("TagResource", {"KeyId": mine, "Tags": [{"TagKey": "a", "TagValue": "b"}]}),
        ("ListResourceTags", {"KeyId": mine}),
        ("ListKeys", {}),
        ("ListKeyPolicies", {"KeyId": mine}),
        ("GetKeyPolicy", {"KeyId": mine, "PolicyName": "default"}),
        ("DeleteAlias", {"AliasName": "alias/a"}),
        ("GenerateRandom", {"NumberOfBytes": 8}),
    ]:
        require_shape(operation, post(simulator, operation, **parameters))


@pytest.mark.parametrize(
    "state", ["Creating", "Disabled", "PendingImport", "PendingReplicaDeletion", "Unavailable", "Updating"]
)
def test_every_state_is_described_in_shape(simulator: SimulatorClient, mine: str, state: str) -> None:
    """DescribeKey answers in every state, and tells it."""
    simulator.set_state(mine, state)
    answer = post(simulator, "DescribeKey", KeyId=mine)
    require_shape("DescribeKey", answer)
    assert (answer["KeyMetadata"]["KeyState"], answer["KeyMetadata"]["Enabled"]) == (state, False)
