"""Roles assumed in customers' accounts: by whom, for how long, and what a failure means."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from schemas.keys import MainKeyUri
from workers.embedded.simulator import SimulatorClient
from workers.errors import Cause, DeniedBy, KmsRefused, KmsThrottled, KmsUnreachable
from workers.kms.aws import roles
from workers.kms.aws.access import AccountAccess
from workers.kms.aws.main_key import AwsKms, AwsMainKey
from workers.kms.aws.policies import missing_statement
from workers.kms.port import encryption_context

OWNER, OTHER = "111122223333", "444455556666"
ROLE, OTHER_ROLE = (f"arn:aws:iam::{account}:role/team/keyrepack" for account in (OWNER, OTHER))
CONTEXT = encryption_context(UUID(int=1), UUID(int=2))
MATERIAL = bytes(range(32))


def run(kms: AwsKms, play: Callable[[], Awaitable[Any]]) -> Any:
    async def closed() -> Any:
        try:
            return await play()
        finally:
            await kms.close()

    return asyncio.run(closed())


@pytest.fixture
def kms() -> AwsKms:
    roles = {OWNER: (ROLE, "e-1"), OTHER: (OTHER_ROLE, None)}
    access = {name: AccountAccess(role_arn=arn, external_id=given) for name, (arn, given) in roles.items()}
    return AwsKms(attempts=1, access=access)


def owners_key(simulator: SimulatorClient, kms: AwsKms, account: str = OWNER, **fields: Any) -> AwsMainKey:
    """A key that lets in its own account alone."""
    return kms.main_key(simulator.create_main_key(account=account, allow=[], **fields))


def test_a_key_is_used_as_its_accounts_role(simulator: SimulatorClient, kms: AwsKms) -> None:
    """A key that does not know keyrepack's own account works through the role; one AssumeRole serves many calls."""
    simulator.put_role(ROLE, external_id="e-1")
    first, second = owners_key(simulator, kms), owners_key(simulator, kms)

    async def play() -> None:
        await asyncio.gather(*[first.describe() for _ in range(8)])
        wrap = await first.wrap(MATERIAL, CONTEXT)
        moved = await second.rewrap(wrap.blob, CONTEXT, first.uri)
        assert (await second.unwrap(moved.blob, CONTEXT)).material == MATERIAL

    run(kms, play)
    assert kms.calls["AssumeRole"] == 1 == simulator.calls()["by_operation"]["AssumeRole"]


def test_clients_are_shared_by_role_and_region(simulator: SimulatorClient, kms: AwsKms) -> None:
    """Each region is asked with credentials from its own STS, each account with those of its own role."""
    simulator.put_role(ROLE, external_id="e-1")
    simulator.put_role(OTHER_ROLE)
    keys = [owners_key(simulator, kms, region=region) for region in ("eu-west-1", "us-east-1") for _ in range(2)]
    keys += [owners_key(simulator, kms, OTHER), kms.main_key(simulator.create_main_key(account="777788889999"))]

    async def play() -> None:
        for key in keys:
            await key.describe()

    run(kms, play)
    assert kms.calls == {"AssumeRole": 3, "DescribeKey": 6}


def test_a_wrap_is_not_moved_inside_kms_between_two_roles(simulator: SimulatorClient, kms: AwsKms) -> None:
    """ReEncrypt calls as one principal: from an account with another role, or none, a wrap is unwrapped and wrapped."""
    mine, same, other = owners_key(simulator, kms), owners_key(simulator, kms), owners_key(simulator, kms, OTHER)
    plain = simulator.create_main_key(account="777788889999")
    assert mine.can_rewrap_from(same.uri)
    assert not mine.can_rewrap_from(other.uri)
    assert not mine.can_rewrap_from(plain)
    assert not kms.main_key(plain).can_rewrap_from(mine.uri)


@pytest.mark.parametrize("asked", ["e-2", None], ids=["another external id", "no role"])
def test_a_role_that_may_not_be_assumed_is_a_refusal(
    simulator: SimulatorClient, kms: AwsKms, asked: str | None
) -> None:
    """Denied by the role: the remedy names its trust policy and the external id, and the statement would mend it."""
    if asked:
        simulator.put_role(ROLE, external_id=asked)
    key = owners_key(simulator, kms)

    async def play() -> KmsRefused:
        with pytest.raises(KmsRefused) as caught:
            await key.describe()
        return caught.value

    error = run(kms, play)
    assert (error.cause, error.operation, error.main_key) == (Cause.DENIED, "AssumeRole", str(key.uri))
    assert f"trust policy of {ROLE}" in error.remedy
    assert "external id e-1" in error.remedy
    assert error.denial is not None
    assert error.denial.by is DeniedBy.TRUST_POLICY
    assert missing_statement(error.denial, UUID(int=1)) == {
        "Sid": "KeyrepackAssume",
        "Effect": "Allow",
        "Principal": {"AWS": "arn:aws:iam::123456789012:root"},
        "Action": ["sts:AssumeRole"],
        "Condition": {"StringEquals": {"sts:ExternalId": "e-1"}},
    }
    assert kms.calls == {"AssumeRole": 1}


def test_a_denied_key_names_the_role_with_its_path(simulator: SimulatorClient, kms: AwsKms) -> None:
    """AWS tells an assumed role without its path; the statement that is missing names it as policies must."""
    simulator.put_role(ROLE, external_id="e-1")
    key = owners_key(simulator, kms)
    simulator.deny(key.uri.name)

    async def play() -> KmsRefused:
        with pytest.raises(KmsRefused) as caught:
            await key.describe()
        return caught.value

    error = run(kms, play)
    assert error.denial is not None
    assert (error.denial.principal, error.denial.by) == (ROLE, DeniedBy.KEY_POLICY)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"kind": "drop"}, KmsUnreachable),
        ({"kind": "error", "code": "Throttling"}, KmsThrottled),
        ({"kind": "error", "code": "ExpiredToken"}, KmsUnreachable),
        ({"kind": "error", "code": "RegionDisabledException"}, KmsUnreachable),
    ],
    ids=str,
)
def test_an_sts_without_an_answer_is_unreachable(
    simulator: SimulatorClient, kms: AwsKms, fault: dict[str, Any], kind: type[KmsUnreachable]
) -> None:
    """STS away, slow or not knowing us says nothing about the customer's key: no refusal, and it passes."""
    simulator.put_role(ROLE, external_id="e-1")
    key = owners_key(simulator, kms)

    async def play() -> None:
        number = simulator.inject(operation="AssumeRole", **fault)
        with pytest.raises(KmsUnreachable) as caught:
            await key.describe()
        assert isinstance(caught.value, KmsThrottled) is (kind is KmsThrottled)
        assert caught.value.operation == "AssumeRole"
        simulator.clear_faults(number=number)
        await key.describe()

    run(kms, play)


def test_credentials_are_renewed_well_before_they_expire(
    simulator: SimulatorClient, kms: AwsKms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once within REFRESH_SECONDS of expiry a call renews them first; with STS away the old ones still serve."""
    simulator.put_role(ROLE, external_id="e-1")
    key = owners_key(simulator, kms)

    async def play() -> None:
        await key.describe()
        await key.describe()
        assert kms.calls["AssumeRole"] == 1
        monkeypatch.setattr(roles.RoleCredentials, "_advisory_refresh_timeout", roles.DURATION_SECONDS + 60)
        number = simulator.inject("drop", operation="AssumeRole")
        await key.describe()
        simulator.clear_faults(number=number)
        await key.describe()
        assert kms.calls["AssumeRole"] == 3

    run(kms, play)


def test_a_trust_that_is_withdrawn_ends_with_the_session(
    simulator: SimulatorClient, kms: AwsKms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once old credentials are too near their end a role that lets nobody in any more is a refusal."""
    simulator.put_role(ROLE, external_id="e-1")
    key = owners_key(simulator, kms)

    async def play() -> None:
        await key.describe()
        simulator.delete_role(ROLE)
        await key.describe()
        for name in ("_advisory_refresh_timeout", "_mandatory_refresh_timeout"):
            monkeypatch.setattr(roles.RoleCredentials, name, roles.DURATION_SECONDS + 60)
        with pytest.raises(KmsRefused) as caught:
            await key.describe()
        assert caught.value.operation == "AssumeRole"

    run(kms, play)
    assert roles.LAST_SECONDS < roles.REFRESH_SECONDS < roles.DURATION_SECONDS


def test_a_roles_credentials_are_shown_nowhere(
    simulator: SimulatorClient, kms: AwsKms, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither logs nor errors hold a session's secrets (R10)."""
    caplog.set_level("DEBUG")
    simulator.put_role(ROLE, external_id="e-1")
    key = owners_key(simulator, kms)

    async def play() -> str:
        await key.describe()
        simulator.inject("drop", operation="DescribeKey")
        with pytest.raises(KmsUnreachable) as caught:
            await key.describe()
        return "".join(traceback.format_exception(caught.value))

    said = run(kms, play) + caplog.text
    assert "ASIA" not in said


def test_another_uri_of_the_account_is_reached_the_same_way(kms: AwsKms) -> None:
    """The account in a key's ARN decides, whatever its partition's regions are."""
    uri = MainKeyUri.parse(f"aws-kms:arn:aws:kms:eu-west-1:{OWNER}:key/mrk-" + "0" * 32)
    assert kms.main_key(uri)._role == kms.access_to(OWNER).role  # type: ignore[union-attr]
