"""What is OpenBao's own: versions, revocations that can be taken back, who may do what. On the real server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pytest

from schemas.errors import MalformedMainKeyUri
from schemas.keys import MainKeyUri
from tests.servers import OpenBaoServer
from workers.errors import Cause, KmsRefused, KmsUnreachable, WrapReason, WrapRefused
from workers.kms.openbao.client import OpenBaoClient
from workers.kms.openbao.main_key import OpenBaoKms, OpenBaoMainKey
from workers.kms.port import encryption_context

T = TypeVar("T")
MATERIAL = bytes(range(32))
CONTEXT = encryption_context(uuid4(), uuid4())
LEAST = """
path "team/transit/keys/{key}" {{ capabilities = ["read"] }}
path "team/transit/encrypt/{key}" {{ capabilities = ["update"] }}
path "team/transit/decrypt/{key}" {{ capabilities = ["update"] }}
"""


class Bench:
    """A key on the real server, and an adapter with a token of its own."""

    def __init__(self, server: OpenBaoServer, folder: Path) -> None:
        self.server, self.folder, self.key_name = server, folder, uuid4().hex
        self.make()
        self.use(server.root_token)

    def make(self, name: str | None = None, **options: Any) -> MainKeyUri:
        self.server.ask("POST", f"team/transit/keys/{name or self.key_name}", options)
        return MainKeyUri("openbao", f"team/transit/{name or self.key_name}")

    def use(self, token: str) -> None:
        path = self.folder / "token"
        path.write_text(token)
        path.chmod(0o600)
        self.kms = OpenBaoKms(OpenBaoClient(address=self.server.address, token_file=path, timeout_seconds=5.0))

    def key(self, name: str | None = None) -> OpenBaoMainKey:
        return self.kms.main_key(MainKeyUri("openbao", f"team/transit/{name or self.key_name}"))

    def change(self, what: str, **body: Any) -> None:
        self.server.ask("POST", f"team/transit/keys/{self.key_name}/{what}", body)

    def run(self, play: Callable[[], Awaitable[T]]) -> T:
        async def closed() -> T:
            try:
                return await play()
            finally:
                await self.kms.close()

        return asyncio.run(closed())

    def refusal(self, play: Callable[[], Awaitable[Any]]) -> KmsRefused:
        with pytest.raises(KmsRefused) as caught:
            self.run(play)
        return caught.value


@pytest.fixture
def bench(openbao_server: OpenBaoServer, tmp_path: Path) -> Bench:
    return Bench(openbao_server, tmp_path)


def test_the_generation_is_the_latest_version(bench: Bench) -> None:
    """Rotations raise the generation; wraps name theirs, and all of them open."""

    async def play() -> None:
        key, wraps = bench.key(), []
        for version in ("1", "2", "3"):
            assert (await key.describe()).generation == version
            wraps.append(await key.wrap(MATERIAL, CONTEXT))
            assert wraps[-1].generation == version
            assert wraps[-1].blob.startswith(f"vault:v{version}:".encode())
            bench.change("rotate")
        assert [(await key.unwrap(wrap.blob, CONTEXT)).generation for wrap in wraps] == ["1", "2", "3"]

    bench.run(play)


def test_a_version_below_the_least_is_a_refusal_that_can_be_taken_back(bench: Bench) -> None:
    """Raising min_decryption_version revokes older wraps alone; lowering it gives them back."""

    async def play() -> None:
        key = bench.key()
        old = await key.wrap(MATERIAL, CONTEXT)
        bench.change("rotate")
        new = await key.wrap(MATERIAL, CONTEXT)
        bench.change("config", min_decryption_version=2)
        with pytest.raises(KmsRefused, match="min_decryption_version") as caught:
            await key.unwrap(old.blob, CONTEXT)
        assert caught.value.cause is Cause.GENERATION_DISABLED
        assert (await key.unwrap(new.blob, CONTEXT)).material == MATERIAL
        assert (await key.describe()).generation == "2"
        bench.change("config", min_decryption_version=1)
        assert (await key.unwrap(old.blob, CONTEXT)).material == MATERIAL

    bench.run(play)


def test_a_trimmed_version_opens_never_again(bench: Bench) -> None:
    """A version that was trimmed is no refusal of the key: its wraps are lost, and are said to be."""

    async def play() -> None:
        key = bench.key()
        old = await key.wrap(MATERIAL, CONTEXT)
        bench.change("rotate")
        bench.change("config", min_decryption_version=2, min_encryption_version=2)
        bench.change("trim", min_available_version=2)
        with pytest.raises(WrapRefused) as caught:
            await key.unwrap(old.blob, CONTEXT)
        assert caught.value.reason is WrapReason.DOES_NOT_OPEN

    bench.run(play)


def test_a_deleted_key_does_not_come_back_empty(bench: Bench) -> None:
    """Wrapping by a key that is gone creates none, though the token may: the server would do so by itself."""
    name = uuid4().hex

    async def play() -> None:
        with pytest.raises(KmsRefused) as caught:
            await bench.key(name).wrap(MATERIAL, CONTEXT)
        assert caught.value.cause is Cause.DELETED
        with pytest.raises(KmsRefused):
            await bench.key(name).describe()

    bench.run(play)


def test_the_least_privilege_is_enough(bench: Bench) -> None:
    """Everything works by a token that may read, encrypt and decrypt by this key and nothing else."""
    token = bench.server.new_token(LEAST.format(key=bench.key_name), no_default_policy=True)
    bench.use(token)

    async def play() -> None:
        key = bench.key()
        made, wrap = await key.generate(CONTEXT)
        assert (await key.unwrap(wrap.blob, CONTEXT)).material == made.material
        assert (await key.describe()).generation == "1"
        assert not any("datakey" in name for name in bench.kms.calls)

    bench.run(play)


@pytest.mark.parametrize("default_policy", [True, False])
@pytest.mark.parametrize("missing", ["keys", "encrypt", "decrypt"])
def test_a_missing_permission_is_a_denial_with_its_remedy(bench: Bench, missing: str, default_policy: bool) -> None:
    """A valid token without one of the three permissions is denied, and the remedy names the paths."""
    policy = LEAST.format(key=bench.key_name).replace(f"transit/{missing}/", f"elsewhere/{missing}/")
    bench.use(bench.server.new_token(policy, no_default_policy=not default_policy))
    key = bench.key()
    error = bench.refusal(key.describe if missing == "keys" else lambda: key.wrap(MATERIAL, CONTEXT))
    assert error.cause is Cause.DENIED
    assert f"team/transit/encrypt/{bench.key_name}" in error.remedy


def test_a_key_that_is_gone_is_not_a_denial(bench: Bench) -> None:
    """To a token that may not create keys the server says 403 for a missing one: it is told as deleted."""
    name = uuid4().hex
    bench.use(bench.server.new_token(LEAST.format(key=name)))
    assert bench.refusal(lambda: bench.key(name).wrap(MATERIAL, CONTEXT)).cause is Cause.DELETED


def test_a_token_that_nobody_knows_says_nothing_of_the_key(bench: Bench) -> None:
    """A revoked or made-up token of ours is no answer about the key: nothing locks by it."""
    revoked = bench.server.new_token(LEAST.format(key=bench.key_name))
    bench.server.ask("POST", "auth/token/revoke", {"token": revoked})
    for token in (revoked, "s.madeup"):
        bench.use(token)
        with pytest.raises(KmsUnreachable, match="own token"):
            bench.run(bench.key().describe)
        with pytest.raises(KmsUnreachable, match="own token"):
            bench.run(lambda: bench.key().wrap(MATERIAL, CONTEXT))


@pytest.mark.parametrize(
    "options",
    [
        {"type": "rsa-3072"},
        {"type": "ed25519"},
        {"type": "hmac", "key_size": 32},
        {"type": "aes128-gcm96"},
        {"type": "aes256-gcm96", "derived": True},
    ],
)
def test_a_key_of_another_use_is_refused(bench: Bench, options: dict[str, Any]) -> None:
    """Asymmetric, signing, weaker and derived keys are refused early, with the types that will do."""
    uri = bench.make(uuid4().hex, **options)
    error = bench.refusal(bench.kms.main_key(uri).describe)
    assert error.cause is Cause.WRONG_USAGE
    assert "aes256-gcm96" in error.remedy


@pytest.mark.parametrize("kind", ["chacha20-poly1305", "xchacha20-poly1305"])
def test_other_ciphers_that_bind_are_taken(bench: Bench, kind: str) -> None:
    """Any 256-bit cipher with associated data serves."""
    key = bench.kms.main_key(bench.make(uuid4().hex, type=kind))

    async def play() -> None:
        wrap = await key.wrap(MATERIAL, CONTEXT)
        assert (await key.describe()).generation == wrap.generation == "1"
        assert (await key.unwrap(wrap.blob, CONTEXT)).material == MATERIAL

    bench.run(play)


def test_a_mount_that_is_not_there_is_a_refusal(bench: Bench) -> None:
    """Nothing mounted at the path: deleted, or never there."""
    key = bench.kms.main_key(MainKeyUri.parse("openbao:nowhere/k"))
    assert bench.refusal(key.describe).cause is Cause.DELETED


@pytest.mark.parametrize("uri", ["openbao:team/../sys/k", "openbao:../k", "openbao:a/..", "openbao:./k", "openbao:k"])
def test_a_name_that_walks_out_of_its_mount_is_no_name(bench: Bench, uri: str) -> None:
    """A customer's URI becomes a path: parts of dots are refused before any request."""
    with pytest.raises(MalformedMainKeyUri):
        bench.kms.main_key(MainKeyUri("openbao", uri.removeprefix("openbao:")))


def test_the_proof_of_binding_is_made_once(bench: Bench) -> None:
    """A wrap costs two requests; a third, with another context, is made once a process."""

    async def play() -> None:
        for _ in range(3):
            await bench.key().wrap(MATERIAL, CONTEXT)
        assert bench.kms.calls == {"encrypt": 3, "decrypt": 4}

    bench.run(play)
