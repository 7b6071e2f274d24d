"""Multi-region keys: one material in several regions, each key with a state and policy of its own."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from schemas.keys import AwsKeyArn, MainKeyUri
from workers.embedded.simulator import SimulatorClient

OWNER, COMPANY = "111122223333", "123456789012"
HERE, THERE = "eu-west-1", "eu-central-1"


@pytest.fixture
def primary(simulator: SimulatorClient) -> str:
    return simulator.create_key(account=OWNER, region=HERE, multi_region=True)


@pytest.fixture
def replica(simulator: SimulatorClient, primary: str) -> str:
    return simulator.replicate(primary, THERE)


def test_a_replica_has_the_same_id_in_its_own_region(primary: str, replica: str) -> None:
    """Both ARNs are main keys' names, and differ in their region alone."""
    first, second = (AwsKeyArn.of(MainKeyUri.parse(f"aws-kms:{arn}")) for arn in (primary, replica))
    assert first.in_region(THERE) == second
    assert (first.region, second.region) == (HERE, THERE)


def test_each_opens_what_the_other_wrapped(kms: Any, client_of: Any, primary: str, replica: str) -> None:
    """Blobs open in every region of the key, named or not, also those from after a rotation, with one material id."""
    there = client_of(COMPANY, THERE)
    client_of(OWNER).rotate_key_on_demand(KeyId=primary)
    for wraps, opens, wrapper, opener in ((kms, there, primary, replica), (there, kms, replica, primary)):
        blob = wraps.encrypt(KeyId=wrapper, Plaintext=b"x", EncryptionContext={"a": "1"})["CiphertextBlob"]
        for named in ({"KeyId": opener}, {}):
            answer = opens.decrypt(CiphertextBlob=blob, EncryptionContext={"a": "1"}, **named)
            assert (answer["Plaintext"], answer["KeyId"]) == (b"x", opener)
            told = kms.describe_key(KeyId=primary)["KeyMetadata"]["CurrentKeyMaterialId"]
            assert answer["KeyMaterialId"] == told


def test_state_and_policy_are_each_ones_own(
    simulator: SimulatorClient, kms: Any, client_of: Any, primary: str, replica: str
) -> None:
    """A primary that is disabled or denied leaves its replica as it is: in AWS they are two keys."""
    simulator.set_state(primary, "Disabled")
    simulator.deny(primary)
    client_of(COMPANY, THERE).encrypt(KeyId=replica, Plaintext=b"x")
    with pytest.raises(ClientError):
        kms.encrypt(KeyId=primary, Plaintext=b"x")


def test_a_customer_replicates_by_the_api(simulator: SimulatorClient, client_of: Any, primary: str) -> None:
    """ReplicateKey makes a replica for its owner; a second one there, and one of a plain key, are refused."""
    owner = client_of(OWNER)
    made = owner.replicate_key(KeyId=primary, ReplicaRegion=THERE)["ReplicaKeyMetadata"]
    assert made["MultiRegionConfiguration"]["MultiRegionKeyType"] == "REPLICA"
    assert made["Arn"] == primary.replace(HERE, THERE)
    told = owner.describe_key(KeyId=primary)["KeyMetadata"]["MultiRegionConfiguration"]
    assert (told["MultiRegionKeyType"], told["ReplicaKeys"]) == ("PRIMARY", [{"Arn": made["Arn"], "Region": THERE}])
    plain = simulator.create_key(account=OWNER)
    for key, code in ((primary, "AlreadyExistsException"), (plain, "UnsupportedOperationException")):
        with pytest.raises(ClientError, match=code):
            owner.replicate_key(KeyId=key, ReplicaRegion=THERE)
    with pytest.raises(ClientError, match="UnsupportedOperationException"):
        client_of(OWNER, THERE).rotate_key_on_demand(KeyId=made["Arn"])


def test_a_region_can_be_down_alone(
    simulator: SimulatorClient, kms: Any, client_of: Any, primary: str, replica: str
) -> None:
    """A fault of one region drops its connections and leaves the other region alone."""
    simulator.inject("drop", region=HERE)
    with pytest.raises(ConnectionClosedError):
        kms.describe_key(KeyId=primary)
    client_of(COMPANY, THERE).describe_key(KeyId=replica)
