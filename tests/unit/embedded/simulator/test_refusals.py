"""What AWS KMS refuses and moto does not: states, policies, accounts, regions, wrong keys and bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from workers.embedded.simulator import SimulatorClient

OWNER, COMPANY = "111122223333", "123456789012"
CRYPTOGRAPHIC: dict[str, Callable[[Any, str, bytes], Any]] = {
    "Encrypt": lambda kms, arn, blob: kms.encrypt(KeyId=arn, Plaintext=b"x" * 32),
    "Decrypt": lambda kms, arn, blob: kms.decrypt(KeyId=arn, CiphertextBlob=blob),
    "Decrypt by blob": lambda kms, arn, blob: kms.decrypt(CiphertextBlob=blob),
    "ReEncrypt": lambda kms, arn, blob: kms.re_encrypt(CiphertextBlob=blob, SourceKeyId=arn, DestinationKeyId=arn),
    "GenerateDataKey": lambda kms, arn, blob: kms.generate_data_key(KeyId=arn, KeySpec="AES_256"),
    "GenerateDataKeyWithoutPlaintext": lambda kms, arn, blob: kms.generate_data_key_without_plaintext(
        KeyId=arn, KeySpec="AES_256"
    ),
}
every_operation = pytest.mark.parametrize("operation", CRYPTOGRAPHIC)


def code_of(call: Callable[[], Any]) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    return str(caught.value.response["Error"]["Code"])


@pytest.fixture
def blob(kms: Any, arn: str) -> bytes:
    return bytes(kms.encrypt(KeyId=arn, Plaintext=b"x" * 32)["CiphertextBlob"])


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("Disabled", "DisabledException"),
        ("PendingDeletion", "KMSInvalidStateException"),
        ("PendingReplicaDeletion", "KMSInvalidStateException"),
        ("PendingImport", "KMSInvalidStateException"),
        ("Unavailable", "KMSInvalidStateException"),
        ("Creating", "KMSInvalidStateException"),
        ("Updating", "KMSInvalidStateException"),
        ("Deleted", "NotFoundException"),
    ],
)
@every_operation
def test_a_key_that_is_not_enabled_does_nothing(
    simulator: SimulatorClient, kms: Any, arn: str, blob: bytes, operation: str, state: str, code: str
) -> None:
    """Each state but Enabled refuses each cryptographic operation, with AWS's code."""
    simulator.set_state(arn, state)
    assert code_of(lambda: CRYPTOGRAPHIC[operation](kms, arn, blob)) == code


@every_operation
def test_a_key_given_back_works(simulator: SimulatorClient, kms: Any, arn: str, blob: bytes, operation: str) -> None:
    """A key that is enabled again does everything, old blobs included."""
    simulator.set_state(arn, "Disabled")
    simulator.set_state(arn, "Enabled")
    CRYPTOGRAPHIC[operation](kms, arn, blob)


@every_operation
def test_a_policy_that_names_nobody_denies(
    simulator: SimulatorClient, kms: Any, arn: str, blob: bytes, operation: str
) -> None:
    """Without a statement that allows the caller, access is denied; with one again, it is granted."""
    simulator.deny(arn)
    assert code_of(lambda: CRYPTOGRAPHIC[operation](kms, arn, blob)) == "AccessDeniedException"
    assert code_of(lambda: kms.describe_key(KeyId=arn)) == "AccessDeniedException"
    simulator.allow(arn, COMPANY)
    CRYPTOGRAPHIC[operation](kms, arn, blob)


def test_a_policy_can_allow_single_actions(simulator: SimulatorClient, kms: Any, arn: str, blob: bytes) -> None:
    """Allow is by action: ReEncrypt takes ReEncryptFrom on one key and ReEncryptTo on the other."""
    root = {"AWS": f"arn:aws:iam::{COMPANY}:root"}
    target = simulator.create_key(account=OWNER)
    allow = {"Effect": "Allow", "Principal": root, "Resource": "*"}
    simulator.set_policy(arn, {"Statement": [{**allow, "Action": ["kms:ReEncryptFrom", "kms:Describe*"]}]})
    simulator.set_policy(target, {"Statement": {**allow, "Action": "kms:ReEncryptTo"}})
    kms.describe_key(KeyId=arn)
    kms.re_encrypt(CiphertextBlob=blob, SourceKeyId=arn, DestinationKeyId=target)
    assert code_of(lambda: kms.decrypt(CiphertextBlob=blob)) == "AccessDeniedException"
    refused = lambda: kms.re_encrypt(CiphertextBlob=blob, SourceKeyId=arn, DestinationKeyId=arn)  # noqa: E731
    assert code_of(refused) == "AccessDeniedException"


@pytest.mark.parametrize(
    ("condition", "allowed"),
    [
        ({"StringEquals": {"kms:EncryptionContext:row": "1"}}, True),
        ({"StringEquals": {"kms:EncryptionContext:row": ["0", "1"]}}, True),
        ({"StringEquals": {"kms:EncryptionContext:row": "2"}}, False),
        ({"StringEquals": {"kms:CallerAccount": COMPANY}}, True),
        ({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, False),
    ],
)
@pytest.mark.parametrize("effect", ["Allow", "Deny"])
def test_policy_conditions(
    simulator: SimulatorClient, kms: Any, arn: str, effect: str, condition: dict[str, Any], allowed: bool
) -> None:
    """Conditions on the encryption context hold; one the simulator does not know never allows and always denies."""
    everyone = {"Effect": "Allow", "Principal": "*", "Action": "kms:*"}
    statement = {"Effect": effect, "Principal": "*", "Action": "kms:Encrypt", "Condition": condition}
    simulator.set_policy(arn, {"Statement": [statement] if effect == "Allow" else [everyone, statement]})
    encrypt = lambda: kms.encrypt(KeyId=arn, Plaintext=b"x", EncryptionContext={"row": "1"})  # noqa: E731
    passes = allowed if effect == "Allow" else not allowed and "IpAddress" not in condition
    if passes:
        encrypt()
    else:
        assert code_of(encrypt) == "AccessDeniedException"


@pytest.mark.parametrize(
    "operation",
    ["list_key_rotations", "get_key_policy", "rotate_key_on_demand", "disable_key", "schedule_key_deletion"],
)
def test_some_operations_are_the_owners_alone(kms: Any, owner: Any, arn: str, operation: str) -> None:
    """Across accounts a key is described, and nothing of its rotations, policy and life is told or changed."""
    kms.describe_key(KeyId=arn)
    kms.get_key_rotation_status(KeyId=arn)
    assert code_of(lambda: getattr(kms, operation)(KeyId=arn)) == "AccessDeniedException"
    getattr(owner, operation)(KeyId=arn)


def test_an_owner_locks_the_company_out_by_policy(kms: Any, owner: Any, arn: str) -> None:
    """A customer's own PutKeyPolicy takes access away and gives it back."""
    shared = owner.get_key_policy(KeyId=arn)["Policy"]
    mine = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{OWNER}:root"}, "Action": "kms:*"}
    owner.put_key_policy(KeyId=arn, Policy=json.dumps({"Statement": [mine]}))
    assert code_of(lambda: kms.describe_key(KeyId=arn)) == "AccessDeniedException"
    owner.put_key_policy(KeyId=arn, Policy=shared)
    kms.describe_key(KeyId=arn)


@pytest.mark.parametrize(
    ("state", "operation"),
    [
        ("PendingDeletion", "enable_key"),
        ("PendingDeletion", "disable_key"),
        ("PendingDeletion", "schedule_key_deletion"),
        ("Enabled", "cancel_key_deletion"),
        ("Unavailable", "enable_key"),
    ],
)
def test_moves_between_states(simulator: SimulatorClient, owner: Any, arn: str, state: str, operation: str) -> None:
    """A move that AWS does not make is refused."""
    simulator.set_state(arn, state)
    assert code_of(lambda: getattr(owner, operation)(KeyId=arn)) == "KMSInvalidStateException"


def test_an_arn_of_another_region_is_refused(simulator: SimulatorClient, client_of: Any, arn: str) -> None:
    """A key is found in its own region alone."""
    frankfurt = client_of(COMPANY, "eu-central-1")
    assert code_of(lambda: frankfurt.describe_key(KeyId=arn)) == "NotFoundException"
    there = simulator.create_key(account=OWNER, region="eu-central-1")
    assert frankfurt.describe_key(KeyId=there)["KeyMetadata"]["Arn"] == there


def test_an_id_alone_is_looked_for_in_the_callers_account(kms: Any, owner: Any, arn: str) -> None:
    """Without an ARN a key of another account is not found."""
    key_id = arn.rpartition("/")[2]
    assert owner.describe_key(KeyId=key_id)["KeyMetadata"]["Arn"] == arn
    assert code_of(lambda: kms.describe_key(KeyId=key_id)) == "NotFoundException"


def test_another_keys_blob_is_refused(simulator: SimulatorClient, kms: Any, arn: str, blob: bytes) -> None:
    """A key that is named must be the one that made the blob."""
    other = simulator.create_key(account=OWNER)
    assert code_of(lambda: kms.decrypt(KeyId=other, CiphertextBlob=blob)) == "IncorrectKeyException"
    wrong = lambda: kms.re_encrypt(CiphertextBlob=blob, SourceKeyId=other, DestinationKeyId=arn)  # noqa: E731
    assert code_of(wrong) == "IncorrectKeyException"


def test_corrupt_bytes_and_contexts_are_refused(kms: Any, arn: str) -> None:
    """No flipped byte and no other context opens, wherever the flip; nor do bytes that are no blob."""
    context = {"a": "1", "b": "2"}
    blob = kms.encrypt(KeyId=arn, Plaintext=b"x" * 32, EncryptionContext=context)["CiphertextBlob"]
    assert kms.decrypt(CiphertextBlob=blob, EncryptionContext={"b": "2", "a": "1"})["Plaintext"] == b"x" * 32
    for other in ({}, {"a": "1"}, {"a": "1", "b": "3"}, {"a": "1b", "": "2"}):
        assert code_of(lambda other=other: kms.decrypt(CiphertextBlob=blob, EncryptionContext=other)) == (
            "InvalidCiphertextException"
        )
    for place in range(5 + len(arn), len(blob), 7):
        flipped = blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :]
        assert code_of(lambda flipped=flipped: kms.decrypt(CiphertextBlob=flipped, EncryptionContext=context)) == (
            "InvalidCiphertextException"
        )
    for foreign in (b"\x00", os.urandom(200), blob[:40], blob[:-1]):
        assert code_of(lambda foreign=foreign: kms.decrypt(KeyId=arn, CiphertextBlob=foreign)) == (
            "InvalidCiphertextException"
        )


@pytest.mark.parametrize(
    ("spec", "usage"),
    [("RSA_2048", "ENCRYPT_DECRYPT"), ("ECC_NIST_P256", "SIGN_VERIFY"), ("HMAC_256", "GENERATE_VERIFY_MAC")],
)
def test_keys_of_another_kind_do_not_wrap(simulator: SimulatorClient, kms: Any, spec: str, usage: str) -> None:
    """Asymmetric and HMAC keys refuse data keys, and have no rotation."""
    key = simulator.create_key(key_spec=spec, key_usage=usage)
    assert code_of(lambda: kms.generate_data_key(KeyId=key, KeySpec="AES_256")) == "InvalidKeyUsageException"
    assert code_of(lambda: kms.rotate_key_on_demand(KeyId=key)) == "UnsupportedOperationException"
    metadata = kms.describe_key(KeyId=key)["KeyMetadata"]
    assert (metadata["KeySpec"], metadata["KeyUsage"]) == (spec, usage)


def test_a_dry_run_says_so_only_where_the_call_would_pass(
    simulator: SimulatorClient, kms: Any, arn: str, blob: bytes
) -> None:
    """DryRun answers DryRunOperationException for what is allowed, and the refusal for what is not."""
    runs: list[Callable[[], Any]] = [
        lambda: kms.encrypt(KeyId=arn, Plaintext=b"x", DryRun=True),
        lambda: kms.decrypt(KeyId=arn, CiphertextBlob=blob, DryRun=True),
        lambda: kms.re_encrypt(CiphertextBlob=blob, DestinationKeyId=arn, DryRun=True),
        lambda: kms.generate_data_key(KeyId=arn, KeySpec="AES_256", DryRun=True),
    ]
    assert [code_of(run) for run in runs] == ["DryRunOperationException"] * 4
    simulator.set_state(arn, "Disabled")
    assert [code_of(run) for run in runs] == ["DisabledException"] * 4


@pytest.mark.parametrize(
    "wanted", [{}, {"KeySpec": "AES_256", "NumberOfBytes": 32}, {"NumberOfBytes": 1024}, {"KeySpec": "AES_128"}]
)
def test_the_size_of_a_data_key(kms: Any, arn: str, wanted: dict[str, Any]) -> None:
    """A data key is of a specification or a number of bytes: one of the two."""
    if len(wanted) != 1:
        assert code_of(lambda: kms.generate_data_key(KeyId=arn, **wanted)) == "ValidationException"
        return
    size = wanted.get("NumberOfBytes", 16)
    assert len(kms.generate_data_key(KeyId=arn, **wanted)["Plaintext"]) == size


@pytest.mark.parametrize("identifier", ["nonsense", "alias/none", "1234abcd-12ab-34cd-56ef-1234567890ab"])
def test_what_is_not_there_is_not_found(kms: Any, identifier: str) -> None:
    """An unknown id, alias or name is not found."""
    assert code_of(lambda: kms.describe_key(KeyId=identifier)) == "NotFoundException"
