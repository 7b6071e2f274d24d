"""A rig an adapter: how to make a key, do to it what its owner or bad luck would, and run calls on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import urllib.error
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest

from schemas.keys import MainKeyUri
from tests.servers import OpenBaoServer
from workers.embedded.simulator import SimulatorClient, running_simulator
from workers.errors import Cause
from workers.kms.aws import clients
from workers.kms.aws.main_key import AwsKms
from workers.kms.local.managed import ManagedKms, create_managed_key_file, rotate_managed_key_file
from workers.kms.local.memory import MemoryKms
from workers.kms.local.uploaded import SealedKey, UploadedKms, sealing_context
from workers.kms.openbao.client import OpenBaoClient
from workers.kms.openbao.main_key import OpenBaoKms
from workers.kms.port import KmsProvider, MainKey, RootWrap

T = TypeVar("T")

ENVIRONMENT = UUID(int=1)
"""Whose keys the suite wraps: an uploaded key works for one environment alone."""

ALL = ["memory", "managed", "aws", "openbao", "uploaded"]
AWS_STATES = {
    Cause.DISABLED: "Disabled",
    Cause.PENDING_DELETION: "PendingDeletion",
    Cause.PENDING_IMPORT: "PendingImport",
    Cause.UNAVAILABLE: "Unavailable",
    Cause.DELETED: "Deleted",
}


class Rig:
    """One adapter with its KMS."""

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


async def move(blob: bytes, context: dict[str, str], source: MainKey, target: MainKey) -> RootWrap:
    """A wrap of `source` under `target`, as a repack moves it: inside the KMS where that can be."""
    if target.can_rewrap_from(source.uri):
        return await target.rewrap(blob, context, source.uri)
    with pytest.raises(ValueError, match="does not rewrap"):
        await target.rewrap(blob, context, source.uri)
    return await target.wrap((await source.unwrap(blob, context)).material, context)


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


class OpenBaoRig(Rig):
    """The real server; the adapter's token has a policy of its own, changed as the key's owner would."""

    # Of the form, so that it reaches the server.
    foreign_blob = b"vault:v1:" + b"QUJD" * 20

    def __init__(self, server: OpenBaoServer, folder: Path) -> None:
        self.server = server
        self.policy = f"rig-{uuid4().hex[:12]}"
        self._allow("")
        token = server.ask("POST", "auth/token/create", {"policies": [self.policy]})["auth"]["client_token"]
        token_file = folder / "openbao.token"
        token_file.write_text(f"{token}\n")
        token_file.chmod(0o600)
        client = OpenBaoClient(address=server.address, token_file=token_file, timeout_seconds=1.0)
        self.provider = OpenBaoKms(client)

    def new_uri(self) -> MainKeyUri:
        uri = MainKeyUri("openbao", f"team/transit/{uuid4().hex}")
        self._key(uri, "POST", "", {})
        return uri

    def rotate(self, uri: MainKeyUri) -> None:
        self._key(uri, "POST", "/rotate")

    def refuse(self, uri: MainKeyUri, cause: Cause) -> None:
        if cause is Cause.DENIED:
            key = uri.name.rpartition("/")[2]
            self._allow("".join(f'path "team/transit/{each}/{key}" {{ capabilities = ["deny"] }}\n' for each in VERBS))
        elif cause is Cause.PENDING_DELETION:
            self._key(uri, "DELETE", "/soft-delete")
        else:
            assert cause is Cause.DELETED
            self._key(uri, "POST", "/config", {"deletion_allowed": True})
            self._key(uri, "DELETE", "")

    def unreachable(self, uri: MainKeyUri, how: str) -> None:
        if how == "hang":
            self.server.freeze()
        else:
            assert how == "sealed"
            self.server.seal()

    def throttle(self, uri: MainKeyUri) -> None:
        quota = {"rate": 0.001, "interval": "1h", "path": "team/transit/"}
        self.server.ask("POST", "sys/quotas/rate-limit/rig", quota)
        with contextlib.suppress(urllib.error.HTTPError):
            for _ in range(10):  # use up what it lets through at first
                self.server.ask("GET", f"team/transit/keys/{uri.name.rpartition('/')[2]}")

    def recover(self, uri: MainKeyUri) -> None:
        self.restore()
        self._allow("")
        with contextlib.suppress(urllib.error.HTTPError):
            self._key(uri, "POST", "/soft-delete-restore")

    def restore(self) -> None:
        """Let the shared server answer everybody again."""
        self.server.thaw()
        self.server.unseal()
        self.server.ask("DELETE", "sys/quotas/rate-limit/rig")

    def _key(self, uri: MainKeyUri, method: str, rest: str, body: dict[str, Any] | None = None) -> None:
        mount, _, key = uri.name.rpartition("/")
        self.server.ask(method, f"{mount}/keys/{key}{rest}", body)

    def _allow(self, but: str) -> None:
        # As README asks, and `create` beside: a token that may create keys is the harder case.
        granted = 'path "team/transit/*" { capabilities = ["create", "read", "update"] }\n'
        self.server.set_policy(self.policy, granted + but)


VERBS = ("keys", "encrypt", "decrypt")


class UploadedRig(Rig):
    def __init__(self, folder: Path) -> None:
        create_managed_key_file(folder / "managed.key")
        self.managed = ManagedKms(folder / "managed.key")
        self.stored: dict[UUID, SealedKey] = {}
        self.provider = UploadedKms(self.managed, self.stored.get)

    def new_uri(self) -> MainKeyUri:
        key_id = uuid4()
        managed = self.managed.main_key(MainKeyUri("managed", ""))
        wrap = asyncio.run(managed.wrap(os.urandom(32), sealing_context(ENVIRONMENT, key_id)))
        self.stored[key_id] = SealedKey(environment=ENVIRONMENT, sealed=wrap.blob)
        return MainKeyUri("uploaded", str(key_id))

    def refuse(self, uri: MainKeyUri, cause: Cause) -> None:
        assert cause is Cause.DELETED
        self.stored[UUID(uri.name)] = SealedKey(environment=ENVIRONMENT, sealed=None)


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


@pytest.fixture(params=ALL)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """Every adapter in turn, or those that a test names."""
    made = _rig(request, tmp_path)
    yield made
    if isinstance(made, OpenBaoRig):
        made.restore()


def _rig(request: pytest.FixtureRequest, folder: Path) -> Rig:
    """Only the server of this adapter is asked for: a missing one takes no other adapter's tests along."""
    if request.param == "openbao":
        return OpenBaoRig(request.getfixturevalue("openbao_server"), folder)
    if request.param == "aws":
        return _aws_rig(request)
    made: dict[str, Callable[[], Rig]] = {
        "memory": MemoryRig,
        "managed": lambda: ManagedRig(folder),
        "uploaded": lambda: UploadedRig(folder),
    }
    return made[request.param]()


def _aws_rig(request: pytest.FixtureRequest) -> AwsRig:
    simulator: SimulatorClient = request.getfixturevalue("simulator")
    simulator.reset()
    patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    patch.setattr(clients, "READ_SECONDS", 1.0)  # a KMS that hangs is waited for, call after call
    for name, value in simulator.environment.items():
        patch.setenv(name, value)
    return AwsRig(simulator)
