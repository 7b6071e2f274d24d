"""Policies: what a customer attaches, what keyrepack's own roles need, and which statement is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import SecretStr

from schemas.keys import MainKeyUri
from tests.engine import World
from workers.compose import build_services
from workers.embedded.simulator import SimulatorClient, running_simulator
from workers.errors import Denial, DeniedBy, NotConfigured
from workers.kms.aws.access import AccountAccess, RoleToAssume
from workers.kms.aws.main_key import AwsKms
from workers.kms.aws.permissions import all_actions
from workers.kms.aws.policies import (
    dashboard_policy,
    environment_policies,
    key_statements,
    missing_statement,
    poller_policy,
    trust_statement,
    worker_policy,
)
from workers.repack.probe import probe_replacement
from workers.runtime.settings import Settings
from workers.services import Services
from workers.store.environments import Environment, TopVersion, live_tops

ENVIRONMENT = UUID("11111111-1111-4111-8111-111111111111")
PRINCIPAL = "arn:aws:iam::123456789012:role/keyrepack-worker"
ROLE = "arn:aws:iam::111122223333:role/keyrepack"
ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
MRK = "arn:aws:kms:eu-west-1:444455556666:key/mrk-" + "0" * 32
PLAIN, MULTI = (MainKeyUri.parse(f"aws-kms:{arn}") for arn in (ARN, MRK))
MANAGED = MainKeyUri.parse("managed:")
ACCESS = {
    "111122223333": AccountAccess(role_arn=ROLE, external_id="e-1"),
    "444455556666": AccountAccess(backup_region="eu-central-1"),
}
BOUND = {"StringEquals": {"kms:EncryptionContext:keyrepack:environment": [str(ENVIRONMENT)]}}


def test_a_keys_policy_is_two_statements() -> None:
    """What has an encryption context is held to the environment; DescribeKey has none and is allowed by itself."""
    assert key_statements([ENVIRONMENT], principal=PRINCIPAL) == [
        {
            "Sid": "KeyrepackDescribe",
            "Effect": "Allow",
            "Action": ["kms:DescribeKey"],
            "Principal": {"AWS": PRINCIPAL},
            "Resource": "*",
        },
        {
            "Sid": "KeyrepackUse",
            "Effect": "Allow",
            "Action": ["kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "kms:ReEncryptFrom", "kms:ReEncryptTo"],
            "Principal": {"AWS": PRINCIPAL},
            "Resource": "*",
            "Condition": BOUND,
        },
    ]


def test_an_environment_is_told_all_it_takes() -> None:
    """Each live AWS key has a policy for whoever uses it; a backup key opens only; a role has its trust."""
    told = environment_policies(ENVIRONMENT, [MULTI, MANAGED, PLAIN], principal=PRINCIPAL, access=ACCESS)
    backup = MRK.replace("eu-west-1", "eu-central-1")
    assert sorted(told["keys"]) == sorted([ARN, MRK, backup])
    users = {arn: {each["Principal"]["AWS"] for each in policy["Statement"]} for arn, policy in told["keys"].items()}
    assert users == {ARN: {ROLE}, MRK: {PRINCIPAL}, backup: {PRINCIPAL}}
    assert [each["Action"] for each in told["keys"][backup]["Statement"]] == [["kms:DescribeKey"], ["kms:Decrypt"]]
    assert told["roles_to_assume"][ROLE]["Statement"] == [
        trust_statement(RoleToAssume(ROLE, "e-1"), principal=PRINCIPAL)
    ]


def test_policies_are_canonical() -> None:
    """The order of keys and environments in the question changes nothing in the text of the answer."""
    first = environment_policies(ENVIRONMENT, [PLAIN, MULTI], principal=PRINCIPAL, access=ACCESS)
    second = environment_policies(ENVIRONMENT, [MULTI, PLAIN, PLAIN], principal=PRINCIPAL, access=ACCESS)
    assert json.dumps(first) == json.dumps(second)
    other = UUID(int=7)
    assert key_statements([other, ENVIRONMENT], principal=PRINCIPAL) == key_statements(
        [ENVIRONMENT, other], principal=PRINCIPAL
    )


def test_workers_may_use_keys_and_assume_roles() -> None:
    """Their role names the keys of accounts without a role, backups apart, and the roles of the others."""
    statements = {
        each["Sid"]: each for each in worker_policy([ENVIRONMENT], [PLAIN, MULTI], access=ACCESS)["Statement"]
    }
    used = statements["KeyrepackDescribe"]["Action"] + statements["KeyrepackUse"]["Action"]
    assert sorted(used) == all_actions()
    assert statements["KeyrepackUse"]["Resource"] == [MRK]
    assert statements["KeyrepackUse"]["Condition"] == BOUND
    assert statements["KeyrepackUseBackup"]["Action"] == ["kms:Decrypt"]
    assert statements["KeyrepackAssume"] == {
        "Sid": "KeyrepackAssume",
        "Effect": "Allow",
        "Action": ["sts:AssumeRole"],
        "Resource": [ROLE],
    }


def test_the_poller_reads_and_the_dashboard_does_nothing() -> None:
    """Who watches main keys opens none, and who shows them does not even ask."""
    (statement,) = poller_policy([PLAIN, MULTI])["Statement"]
    assert statement["Action"] == ["kms:DescribeKey", "kms:GetKeyRotationStatus"]
    assert statement["Resource"] == sorted([ARN, MRK])
    assert dashboard_policy()["Statement"] == []
    assert worker_policy([ENVIRONMENT], [MANAGED])["Statement"] == []


@pytest.mark.parametrize("by", [DeniedBy.KEY_POLICY, DeniedBy.OWN_POLICY])
@pytest.mark.parametrize(("action", "bound"), [("kms:Decrypt", True), ("kms:DescribeKey", False)])
def test_the_missing_statement_is_for_whose_policy_it_is(by: DeniedBy, action: str, bound: bool) -> None:
    """In a key's policy it names the principal, in keyrepack's own the key; bound to the environment if it can be."""
    denial = Denial(action=action, resource=ARN, principal=PRINCIPAL, by=by)
    found = missing_statement(denial, ENVIRONMENT)
    assert found is not None
    assert found["Action"] == [action]
    assert found.get("Principal") == ({"AWS": PRINCIPAL} if by is DeniedBy.KEY_POLICY else None)
    assert found["Resource"] == ("*" if by is DeniedBy.KEY_POLICY else [ARN])
    assert found.get("Condition") == (BOUND if bound else None)


def test_where_no_statement_is_missing_none_is_made_up() -> None:
    """A statement that denies is not mended by one that allows; without a principal nobody can be allowed."""
    denial = Denial(action="kms:Decrypt", resource=ARN, principal=PRINCIPAL, by=DeniedBy.EXPLICIT_DENY)
    assert missing_statement(denial, ENVIRONMENT) is None
    nobody = Denial(action="kms:Decrypt", resource=ARN, principal="", by=DeniedBy.KEY_POLICY)
    assert missing_statement(nobody, ENVIRONMENT) is None
    told = missing_statement(nobody, ENVIRONMENT, principal=PRINCIPAL)
    assert told is not None
    assert told["Principal"] == {"AWS": PRINCIPAL}


# A probe's findings ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_simulator() -> Iterator[SimulatorClient]:
    with running_simulator() as client:
        yield client


@pytest.fixture
def simulator(shared_simulator: SimulatorClient, monkeypatch: pytest.MonkeyPatch) -> SimulatorClient:
    shared_simulator.reset()
    for name, value in shared_simulator.environment.items():
        monkeypatch.setenv(name, value)
    return shared_simulator


@pytest.fixture
def environment(world: World) -> Environment:
    return world.environment()


@pytest.fixture
def services(world: World, simulator: SimulatorClient) -> Iterator[Services]:
    """A process that serves AWS keys and the world's own."""
    access = {"444455556666": AccountAccess(role_arn="arn:aws:iam::444455556666:role/keyrepack")}
    kms = AwsKms(attempts=1, access=access)
    made = build_services(Settings(database_url=SecretStr(world.url)), providers=[world.kms, kms])
    yield made
    made.close()


def source_of(services: Services, environment: Environment) -> TopVersion:
    with services.database.read() as connection:
        return live_tops(connection, environment.id)[0]


@pytest.mark.parametrize("action", ["kms:DescribeKey", "kms:Encrypt", "kms:Decrypt"])
def test_a_probe_names_the_missing_statement(
    services: Services, simulator: SimulatorClient, environment: Environment, action: str
) -> None:
    """A new main key whose policy lacks an action is refused with the statement; attached, the probe is clear."""
    uri = simulator.create_main_key(account="111122223333")
    principal = "arn:aws:iam::123456789012:root"
    whole = key_statements([environment.environment_id], principal=principal)
    less = [{**each, "Action": [one for one in each["Action"] if one != action]} for each in whole]
    simulator.set_policy(uri.name, {"Statement": less})
    source = source_of(services, environment)
    findings = probe_replacement(services, environment, source, uri).findings
    bad = [finding for finding in findings if finding.statement is not None]
    assert [finding.statement["Action"] for finding in bad if finding.statement] == [[action]]
    simulator.set_policy(uri.name, {"Statement": [*less, bad[0].statement]})
    assert probe_replacement(services, environment, source, uri).is_clear


def test_a_probe_names_the_trust_that_is_missing(
    services: Services, simulator: SimulatorClient, environment: Environment
) -> None:
    """Of a key whose account's role cannot be assumed the finding holds the statement of the trust policy."""
    uri = simulator.create_main_key(account="444455556666")
    findings = probe_replacement(services, environment, source_of(services, environment), uri).findings
    (statement,) = [finding.statement for finding in findings if finding.statement]
    assert statement["Action"] == ["sts:AssumeRole"]


def test_the_file_of_roles_is_read_when_a_process_is_built(tmp_path: Path) -> None:
    """A process does not start with half of what its operator set: a file with a mistake stops it."""
    path = tmp_path / "access.json"
    path.write_text(json.dumps({"444455556666": {"role_arn": "keyrepack"}}))
    settings = Settings(database_url=SecretStr("sqlite://"), aws_access_file=path)
    with pytest.raises(NotConfigured, match="role_arn"):
        build_services(settings)
    path.write_text("{}")
    build_services(settings).close()
