"""The control API, its client, and how the simulator is served."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.error
from pathlib import Path
from typing import Any

import boto3
import pytest

from schemas.keys import AwsKeyArn
from workers.embedded.simulator import SimulatorClient, SimulatorRefused, running_simulator, serve
from workers.embedded.simulator.__main__ import main
from workers.errors import NotConfigured


def test_calls_are_counted_by_operation_and_key(simulator: SimulatorClient, kms: Any, arn: str) -> None:
    """Every call counts once by operation, and once for each key it names, refused ones too."""
    other = simulator.create_key()
    blob = kms.encrypt(KeyId=arn, Plaintext=b"x")["CiphertextBlob"]
    kms.re_encrypt(CiphertextBlob=blob, SourceKeyId=arn, DestinationKeyId=other)
    simulator.deny(arn)
    with pytest.raises(kms.exceptions.ClientError):
        kms.describe_key(KeyId=arn)
    assert simulator.calls() == {
        "total": 3,
        "by_operation": {"Encrypt": 1, "ReEncrypt": 1, "DescribeKey": 1},
        "by_key": {arn: {"Encrypt": 1, "ReEncrypt": 1, "DescribeKey": 1}, other: {"ReEncrypt": 1}},
    }
    simulator.clear_calls()
    assert simulator.calls()["total"] == 0


def test_keys_are_made_in_any_account_and_region(simulator: SimulatorClient) -> None:
    """A key's ARN names the account and region it was asked for in, and is a main key's name."""
    uri = simulator.create_main_key(account="444455556666", region="us-east-1")
    arn = AwsKeyArn.of(uri)
    assert (arn.account, arn.region) == ("444455556666", "us-east-1")
    described = {key["arn"]: key for key in simulator.describe_keys()}
    assert described[uri.name]["generation"] == simulator.describe_keys()[0]["generations"][-1]


def test_rotation_by_control_is_the_owners(simulator: SimulatorClient, kms: Any, arn: str) -> None:
    """The control API rotates a foreign key, and tells the new generation."""
    generation = simulator.rotate(arn)
    assert kms.describe_key(KeyId=arn)["KeyMetadata"]["CurrentKeyMaterialId"] == generation


def test_material_ids_can_be_hidden(simulator: SimulatorClient, kms: Any, arn: str) -> None:
    """A key that hides its material ids leaves them out of every answer, until it shows them again."""
    simulator.hide_material_id(arn)
    blob = kms.encrypt(KeyId=arn, Plaintext=b"x")["CiphertextBlob"]
    answers = [
        kms.describe_key(KeyId=arn)["KeyMetadata"],
        kms.decrypt(CiphertextBlob=blob),
        kms.generate_data_key(KeyId=arn, KeySpec="AES_256"),
        kms.re_encrypt(CiphertextBlob=blob, DestinationKeyId=arn),
    ]
    assert not [name for answer in answers for name in answer if "MaterialId" in name]
    simulator.hide_material_id(arn, hidden=False)
    assert "KeyMaterialId" in kms.decrypt(CiphertextBlob=blob)


def test_a_reset_forgets_everything(simulator: SimulatorClient, kms: Any, arn: str) -> None:
    """After a reset there are no keys, faults or counts."""
    simulator.inject("throttle")
    simulator.reset()
    assert simulator.describe_keys() == []
    assert simulator.calls()["total"] == 0
    with pytest.raises(kms.exceptions.NotFoundException):
        kms.describe_key(KeyId=arn)


@pytest.mark.parametrize(
    ("method", "path", "fields", "status"),
    [
        ("GET", "nothing", None, "404|There is no"),
        ("POST", "keys/rotate", {}, "key is missing"),
        ("POST", "keys/rotate", {"key": "nonsense"}, "is not an ARN"),
        ("PUT", "keys/state", {"key": "arn:aws:kms:eu-west-1:111122223333:key/none", "state": "Enabled"}, "NotFound"),
        ("POST", "clock", {"seconds": -1}, "forward only"),
        ("POST", "keys", {"region": "middle-earth-1"}, "no region"),
    ],
)
def test_a_wrong_control_call_is_refused_in_words(
    simulator: SimulatorClient, method: str, path: str, fields: dict[str, Any] | None, status: str
) -> None:
    """What the control API does not take, it says why."""
    with pytest.raises(SimulatorRefused, match=status):
        simulator.request(method, path, fields)


def test_an_unknown_state_is_refused(simulator: SimulatorClient, arn: str) -> None:
    """A key is put into one of AWS's states or none."""
    with pytest.raises(SimulatorRefused, match="state is one of"):
        simulator.set_state(arn, "Sleepy")


def test_calls_without_credentials_or_operation_are_refused(simulator: SimulatorClient) -> None:
    """A call that is not signed for KMS is no call to KMS."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        SimulatorClient(simulator.url)._opener.open(f"{simulator.url}/", b"{}")
    with caught.value as answer:
        assert json.loads(answer.read())["__type"] == "MissingAuthenticationTokenException"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", ""])
def test_only_this_machine_is_served(host: str) -> None:
    """An address that others could reach is refused before anything listens."""
    with pytest.raises(NotConfigured, match="loopback"):
        serve(host, 0)
    with pytest.raises(NotConfigured, match="loopback"), running_simulator(host):
        pass
    assert main(["--host", host, "--port", "0"]) == 2


def test_a_port_that_is_taken_is_an_error() -> None:
    """A simulator in a thread that cannot listen says so at once."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        simulator = running_simulator(port=taken.getsockname()[1])
        with pytest.raises(OSError, match="in use"), simulator:
            pass


def test_simulators_of_one_process_share_nothing() -> None:
    """Two simulators have keys of their own, moto's included."""
    with running_simulator() as first, running_simulator() as second:
        arn = first.create_key()
        assert [key["arn"] for key in first.describe_keys()] == [arn]
        assert second.describe_keys() == []


def test_a_process_of_its_own_tells_its_port(tmp_path: Path) -> None:
    """`python -m workers.embedded.simulator` prints and writes the free port it took, and serves AWS's SDK there."""
    port_file = tmp_path / "port.json"
    command = [sys.executable, "-m", "workers.embedded.simulator", "--port", "0", "--port-file", str(port_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."}) as process:
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            assert json.loads(port_file.read_text()) == told
            simulator = SimulatorClient(f"http://127.0.0.1:{told['port']}")
            client = boto3.client(
                "kms",
                endpoint_url=simulator.environment["AWS_ENDPOINT_URL_KMS"],
                region_name="eu-west-1",
                aws_access_key_id="a",
                aws_secret_access_key="b",
            )
            assert client.describe_key(KeyId=simulator.create_key())["KeyMetadata"]["KeyState"] == "Enabled"
        finally:
            process.terminate()
    assert process.returncode != 0


def test_requests_leave_no_log(simulator: SimulatorClient, kms: Any, arn: str, capfd: Any, caplog: Any) -> None:
    """Answering says nothing on the console and in the logs."""
    caplog.set_level("INFO")
    kms.encrypt(KeyId=arn, Plaintext=b"x")
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.name.startswith("workers.embedded")]
