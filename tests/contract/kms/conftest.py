"""A rig an adapter: how to make a key, do to it what its owner or bad luck would, and run calls on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pytest

from schemas.keys import MainKeyUri
from workers.embedded.simulator import SimulatorClient, running_simulator
from workers.errors import Cause
from workers.kms.aws import AwsKms
from workers.kms.managed import ManagedKms, create_managed_key_file, rotate_managed_key_file
from workers.kms.memory import MemoryKms
from workers.kms.port import KmsProvider, MainKey

T = TypeVar("T")

AWS_STATES = {
    Cause.DISABLED: "Disabled",
    Cause.PENDING_DELETION: "PendingDeletion",
    Cause.PENDING_IMPORT: "PendingImport",
    Cause.UNAVAILABLE: "Unavailable",
    Cause.DELETED: "Deleted",
}


class Rig:
    """One adapter with its KMS. `ways_to_lose` names the operations of the port that make a call to the KMS."""

    provider: KmsProvider
    foreign_blob = b"not a wrap of anything, but as long as one may well be" * 2

    def new_uri(self) -> MainKeyUri:
        raise NotImplementedError

    def rotate(self, uri: MainKeyUri) -> None:
        raise NotImplementedError

    def refuse(self, uri: MainKeyUri, cause: Cause) -> None:
        raise NotImplementedError

    def unreachable(self, uri: MainKeyUri, how: str) -> None:
        raise NotImplementedError

    def throttle(self, uri: MainKeyUri) -> None:
        raise NotImplementedError

    def recover(self, uri: MainKeyUri) -> None:
        raise NotImplementedError

    def hide_generation(self, uri: MainKeyUri) -> None:
        raise NotImplementedError

    def new_key(self) -> MainKey:
        return self.provider.main_key(self.new_uri())

    def run(self, play: Callable[[], Awaitable[T]]) -> T:
        """Run `play` on an event loop of its own, and close the provider after."""

        async def closed() -> T:
            try:
                return await play()
            finally:
                await self.provider.close()

        return asyncio.run(closed())


class MemoryRig(Rig):
    def __init__(self) -> None:
        self.provider: MemoryKms = MemoryKms()

    def new_uri(self) -> MainKeyUri:
        return MainKeyUri("memory", uuid4().hex)

    def rotate(self, uri: MainKeyUri) -> None:
        self.provider.rotate(uri.name)

    def refuse(self, uri: MainKeyUri, cause: Cause) -> None:
        if cause is Cause.DELETED:
            self.provider.delete(uri.name)
        else:
            self.provider.set_state(uri.name, cause)

    def unreachable(self, uri: MainKeyUri, how: str) -> None:
        self.provider.unreachable(uri.name)

    def throttle(self, uri: MainKeyUri) -> None:
        self.provider.throttle(uri.name)

    def recover(self, uri: MainKeyUri) -> None:
        self.provider.set_state(uri.name, None)
        self.provider.unreachable(uri.name, 0)
        self.provider.throttle(uri.name, 0)

    def hide_generation(self, uri: MainKeyUri) -> None:
        self.provider.hide_generation(uri.name)


class ManagedRig(Rig):
    def __init__(self, folder: Path) -> None:
        self.path = folder / "managed.key"
        create_managed_key_file(self.path)
        self.provider = ManagedKms(self.path)

    def new_uri(self) -> MainKeyUri:
        return MainKeyUri("managed", "")

    def rotate(self, uri: MainKeyUri) -> None:
        rotate_managed_key_file(self.path)


class AwsRig(Rig):
    def __init__(self, simulator: SimulatorClient) -> None:
        self.simulator = simulator
        self.provider = AwsKms(attempts=1)

    def new_uri(self) -> MainKeyUri:
        return self.simulator.create_main_key(account="111122223333")

    def rotate(self, uri: MainKeyUri) -> None:
        self.simulator.rotate(uri.name)

    def refuse(self, uri: MainKeyUri, cause: Cause) -> None:
        if cause is Cause.DENIED:
            self.simulator.deny(uri.name)
        else:
            self.simulator.set_state(uri.name, AWS_STATES[cause])

    def unreachable(self, uri: MainKeyUri, how: str) -> None:
        fields: dict[str, Any] = {"code": how, "kind": "error"} if how.endswith("Exception") else {"kind": how}
        self.simulator.inject(key=uri.name, **fields)

    def throttle(self, uri: MainKeyUri) -> None:
        self.simulator.inject("throttle", key=uri.name)

    def recover(self, uri: MainKeyUri) -> None:
        self.simulator.clear_faults(key=uri.name)
        self.simulator.allow(uri.name, "123456789012")
        self.simulator.set_state(uri.name, "Enabled")

    def hide_generation(self, uri: MainKeyUri) -> None:
        self.simulator.hide_material_id(uri.name)


@pytest.fixture(scope="session")
def simulator() -> Iterator[SimulatorClient]:
    with running_simulator() as client:
        yield client


@pytest.fixture(params=["memory", "managed", "aws"])
def rig(
    request: pytest.FixtureRequest, tmp_path: Path, simulator: SimulatorClient, monkeypatch: pytest.MonkeyPatch
) -> Rig:
    """Every adapter in turn."""
    return _rig(request.param, tmp_path, simulator, monkeypatch)


@pytest.fixture(params=["memory", "aws"])
def kms_rig(
    request: pytest.FixtureRequest, tmp_path: Path, simulator: SimulatorClient, monkeypatch: pytest.MonkeyPatch
) -> Rig:
    """The adapters whose KMS is somebody else's: it can refuse, be away, and hold many keys."""
    return _rig(request.param, tmp_path, simulator, monkeypatch)


@pytest.fixture
def aws_rig(tmp_path: Path, simulator: SimulatorClient, monkeypatch: pytest.MonkeyPatch) -> AwsRig:
    """The AWS adapter on the simulator."""
    rig = _rig("aws", tmp_path, simulator, monkeypatch)
    assert isinstance(rig, AwsRig)
    return rig


def _rig(kind: str, folder: Path, simulator: SimulatorClient, monkeypatch: pytest.MonkeyPatch) -> Rig:
    if kind == "memory":
        return MemoryRig()
    if kind == "managed":
        return ManagedRig(folder)
    simulator.reset()
    for name, value in simulator.environment.items():
        monkeypatch.setenv(name, value)
    return AwsRig(simulator)
