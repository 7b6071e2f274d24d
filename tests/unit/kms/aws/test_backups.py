"""Backup keys: when the same key in another region opens a wrap, and when it must not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from tests.poll import stretched
from workers.embedded.simulator import SimulatorClient
from workers.errors import Cause, KmsRefused, KmsThrottled, KmsUnreachable, WrapRefused
from workers.kms.aws.access import AccountAccess
from workers.kms.aws.main_key import AwsKms, AwsMainKey
from workers.kms.aws.policies import backup_statements
from workers.kms.aws.regions import SILENCE_SECONDS
from workers.kms.port import encryption_context

OWNER, COMPANY = "111122223333", "123456789012"
ROLE = f"arn:aws:iam::{OWNER}:role/keyrepack"
HERE, THERE = "eu-west-1", "eu-central-1"
CONTEXT = encryption_context(UUID(int=1), UUID(int=2))
MATERIAL = bytes(range(32))


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Pair:
    """A multi-region key, its replica, and the adapter."""

    simulator: SimulatorClient
    kms: AwsKms
    clock: Clock
    key: AwsMainKey
    replica: str
    blob: bytes = b""

    def run(self, play: Callable[[], Awaitable[Any]]) -> Any:
        async def closed() -> Any:
            try:
                self.blob = (await self.key.wrap(MATERIAL, CONTEXT)).blob
                self.simulator.clear_calls()
                return await play()
            finally:
                await self.kms.close()

        return asyncio.run(closed())

    async def unwrap(self) -> bytes:
        return (await self.key.unwrap(self.blob, CONTEXT)).material

    def lose_region(self, kind: str = "drop", **fields: Any) -> int:
        return self.simulator.inject(kind, region=HERE, **fields)

    def asked(self) -> tuple[int, int]:
        """Decrypt calls that arrived at (the key, its replica)."""
        by_key = self.simulator.calls()["by_key"]
        return tuple(by_key.get(arn, {}).get("Decrypt", 0) for arn in (self.key.uri.name, self.replica))  # type: ignore[return-value]


def make_pair(simulator: SimulatorClient, access: AccountAccess, **options: Any) -> Pair:
    clock = Clock()
    kms = AwsKms(attempts=1, access={OWNER: access}, clock=clock, **options)
    key = kms.main_key(simulator.create_main_key(account=OWNER, multi_region=True))
    return Pair(simulator, kms, clock, key, simulator.replicate(key.uri.name, THERE))


@pytest.fixture
def pair(simulator: SimulatorClient) -> Pair:
    return make_pair(simulator, AccountAccess(backup_region=THERE))


@pytest.mark.parametrize("how", ["drop", "KMSInternalException", "KeyUnavailableException"])
def test_a_backup_opens_what_its_silent_region_does_not(pair: Pair, how: str) -> None:
    """With the first region away, or failing by its own word, the backup opens the wrap, and it is counted."""

    async def play() -> None:
        fault = {"kind": "drop"} if how == "drop" else {"kind": "error", "code": how}
        pair.lose_region(**fault)
        opened = await pair.key.unwrap(pair.blob, CONTEXT)
        assert opened.material == MATERIAL
        assert opened.generation

    before = dict(pair.kms.calls)
    pair.run(play)
    assert pair.asked() == (1, 1)
    assert pair.kms.calls["Decrypt"] - before.get("Decrypt", 0) == 3  # one of them checked the wrap that was made


def test_a_silent_region_is_not_waited_for_each_time(pair: Pair) -> None:
    """For SILENCE_SECONDS unwraps go straight to the backup; then the first region is asked again, and serves again."""

    async def play() -> None:
        number = pair.lose_region()
        for _ in range(3):
            assert await pair.unwrap() == MATERIAL
        assert pair.asked() == (1, 3)
        pair.clock.seconds += SILENCE_SECONDS + 1
        await pair.unwrap()
        assert pair.asked() == (2, 4)
        pair.simulator.clear_faults(number=number)
        pair.clock.seconds += SILENCE_SECONDS + 1
        await pair.unwrap()
        await pair.unwrap()
        assert pair.asked() == (4, 4)

    pair.run(play)


def test_any_answer_of_the_first_region_ends_its_silence(pair: Pair) -> None:
    """A poll that gets an answer there is enough: the next unwrap asks the first region, not the backup."""

    async def play() -> None:
        number = pair.lose_region()
        await pair.unwrap()
        pair.simulator.clear_faults(number=number)
        await pair.key.describe()
        await pair.unwrap()
        assert pair.asked() == (2, 1)

    pair.run(play)


def test_a_hanging_region_costs_its_time_out_once(simulator: SimulatorClient) -> None:
    """The first unwrap waits as long as a call may take; those after it do not."""
    pair = make_pair(simulator, AccountAccess(backup_region=THERE), timeout_seconds=0.5)

    async def play() -> None:
        pair.lose_region("hang")
        took = []
        for _ in range(2):
            began = time.monotonic()
            assert await pair.unwrap() == MATERIAL
            took.append(time.monotonic() - began)
        assert took[0] >= 0.4
        assert took[1] < stretched(0.4)

    pair.run(play)


@pytest.mark.parametrize("state", ["Disabled", "PendingDeletion", "Deleted", "denied"])
def test_a_revoked_key_is_not_opened_through_its_backup(pair: Pair, state: str) -> None:
    """A first region that says no is believed, though the replica would open: no other region is asked (R8)."""

    async def play() -> None:
        revoke(pair, state)
        for _ in range(2):
            with pytest.raises(KmsRefused):
                await pair.unwrap()

    pair.run(play)
    assert pair.asked()[1] == 0


@pytest.mark.parametrize("state", ["Disabled", "denied"])
@pytest.mark.parametrize("seen_by", ["unwrap", "describe"])
def test_an_outage_after_a_revocation_opens_nothing(pair: Pair, state: str, seen_by: str) -> None:
    """The last word of the first region was no: when it falls silent after that, the backup is not asked (R8)."""

    async def play() -> None:
        revoke(pair, state)
        with pytest.raises(KmsRefused):
            await (pair.unwrap() if seen_by == "unwrap" else pair.key.describe())
        pair.lose_region()
        with pytest.raises(KmsUnreachable):
            await pair.unwrap()

    pair.run(play)
    assert pair.asked()[1] == 0


def test_a_refusal_in_a_remembered_silence_is_believed_once_it_is_seen(pair: Pair) -> None:
    """While the backup serves, a poll that hears no in the first region ends it at once."""

    async def play() -> None:
        number = pair.lose_region()
        await pair.unwrap()
        pair.simulator.clear_faults(number=number)
        pair.simulator.set_state(pair.key.uri.name, "Disabled")
        with pytest.raises(KmsRefused):
            await pair.key.describe()
        with pytest.raises(KmsRefused) as caught:
            await pair.unwrap()
        assert caught.value.cause is Cause.DISABLED

    pair.run(play)
    assert pair.asked()[1] == 1


def test_a_key_given_back_has_its_backup_again(pair: Pair) -> None:
    """Once the first region has opened a wrap again, its next outage is covered."""

    async def play() -> None:
        pair.simulator.set_state(pair.key.uri.name, "Disabled")
        with pytest.raises(KmsRefused):
            await pair.unwrap()
        pair.simulator.set_state(pair.key.uri.name, "Enabled")
        await pair.unwrap()
        pair.lose_region()
        assert await pair.unwrap() == MATERIAL

    pair.run(play)


def test_a_refusal_that_describe_key_cannot_explain_is_still_a_no(pair: Pair) -> None:
    """Refused by state, then no answer which state: unreachable for the caller, and no reason to ask elsewhere."""

    async def play() -> None:
        pair.simulator.set_state(pair.key.uri.name, "Disabled")
        pair.lose_region(operation="DescribeKey")
        for _ in range(2):
            with pytest.raises(KmsUnreachable):
                await pair.unwrap()

    pair.run(play)
    assert pair.asked()[1] == 0


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"kind": "throttle"}, KmsThrottled),
        ({"kind": "error", "code": "UnrecognizedClientException"}, KmsUnreachable),
        ({"kind": "error", "code": "InvalidCiphertextException"}, WrapRefused),
    ],
    ids=str,
)
def test_an_answer_is_no_silence(pair: Pair, fault: dict[str, Any], kind: type[Exception]) -> None:
    """Throttling, credentials that are not accepted, and bytes that do not open are answers: no backup is asked."""

    async def play() -> None:
        pair.lose_region(**fault)
        with pytest.raises(kind):
            await pair.unwrap()

    pair.run(play)
    assert pair.asked()[1] == 0


@pytest.mark.parametrize("state", ["Disabled", "denied", "PendingDeletion"])
def test_a_backup_that_cannot_help_says_nothing_of_the_key(pair: Pair, state: str) -> None:
    """A replica that refuses locks nobody: the key is unreachable, and its own region is asked again at once."""

    async def play() -> None:
        revoke(pair, state, pair.replica)
        pair.lose_region()
        for _ in range(2):
            with pytest.raises(KmsUnreachable, match="backup in eu-central-1") as caught:
                await pair.unwrap()
            assert caught.value.main_key == str(pair.key.uri)

    pair.run(play)
    assert pair.asked()[0] == 2


def test_a_backup_only_opens(pair: Pair) -> None:
    """Nothing is wrapped, generated, moved or described by the backup: what is new is made where the key is."""

    async def play() -> None:
        pair.lose_region()
        for call in (
            pair.key.describe,
            lambda: pair.key.generate(CONTEXT),
            lambda: pair.key.wrap(MATERIAL, CONTEXT),
            lambda: pair.key.rewrap(pair.blob, CONTEXT, pair.key.uri),
        ):
            with pytest.raises(KmsUnreachable):
                await call()

    pair.run(play)
    assert pair.replica not in pair.simulator.calls()["by_key"]


def test_the_backups_policy_suffices(pair: Pair) -> None:
    """With exactly the statements of a backup key's policy the backup opens."""
    statements = backup_statements([UUID(int=1)], principal=f"arn:aws:iam::{COMPANY}:root")
    pair.simulator.set_policy(pair.replica, {"Statement": statements})

    async def play() -> None:
        pair.lose_region()
        assert await pair.unwrap() == MATERIAL

    pair.run(play)


def test_a_role_is_assumed_in_the_region_that_answers(simulator: SimulatorClient) -> None:
    """With a whole region away, its STS included, the role is assumed through the backup's region."""
    simulator.put_role(ROLE, external_id="e-1")
    access = AccountAccess(role_arn=ROLE, external_id="e-1", backup_region=THERE)
    pair = make_pair(simulator, access)

    async def play() -> None:
        await pair.kms.close()  # credentials of the first region are gone with its client
        pair.lose_region()
        assert await pair.unwrap() == MATERIAL

    pair.run(play)


@pytest.mark.parametrize("why", ["one region", "no backup", "its own region"])
def test_without_a_backup_a_silent_region_is_unreachable(simulator: SimulatorClient, why: str) -> None:
    """A key of one region, an account without a backup region, and a key in that very region have none."""
    access = {OWNER: AccountAccess(backup_region=HERE if why == "its own region" else THERE)}
    kms = AwsKms(attempts=1, access=None if why == "no backup" else access)
    key = kms.main_key(simulator.create_main_key(account=OWNER, multi_region=why != "one region"))

    async def play() -> None:
        blob = (await key.wrap(MATERIAL, CONTEXT)).blob
        simulator.inject("drop", region=HERE)
        with pytest.raises(KmsUnreachable):
            await key.unwrap(blob, CONTEXT)
        await kms.close()

    asyncio.run(play())


def revoke(pair: Pair, state: str, arn: str | None = None) -> None:
    key = arn or pair.key.uri.name
    if state == "denied":
        pair.simulator.deny(key)
    else:
        pair.simulator.set_state(key, state)
