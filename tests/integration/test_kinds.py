"""A hierarchy moves across kinds of main key, none of which the next one can read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import SecretStr

from schemas.keys import MainKeyUri
from schemas.states import Mode, RepackState
from tests.servers import OpenBaoServer
from workers.compose import build_services
from workers.embedded.simulator import SimulatorClient, running_simulator
from workers.integrity.verify import verify_environment
from workers.keyring.keyring import Keyring
from workers.kms.local.managed import create_managed_key_file, rotate_managed_key_file
from workers.main_keys import uploads
from workers.main_keys.polling import poll_now
from workers.main_keys.resealing import reseal
from workers.repack.lifecycle import start_repack, walk_slice
from workers.repack.starting import Request
from workers.runtime.settings import Settings
from workers.services import Services
from workers.store.environments import Environment, find_environment, live_tops
from workers.store.repacks import Repack, get_repack, latest_repack
from workers.store.schema import migrate

pytestmark = pytest.mark.acceptance
OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
A_BATCH = 0.000_001
"""Seconds of a slice that end it with its first batch: what happens between two of them can be done."""


class Story:
    """One environment, and what its owner does to its main keys."""

    def __init__(self, services: Services, managed_file: Path) -> None:
        self.services, self.managed_file = services, managed_file
        keyring = Keyring(services)
        keyring.create_environment("acme", "one", actor="ada")
        parent = keyring.create_wrapping_key("acme/one")
        made = [*keyring.create_data_keys("acme/one", parent, 20), keyring.create_data_key("acme/one")]
        self.material: dict[UUID, bytes] = {key.key_id: key.material for key in made}

    @property
    def environment(self) -> Environment:
        with self.services.database.read() as connection:
            return find_environment(connection, "acme/one")

    def upload(self) -> MainKeyUri:
        """A key of the customer's own making."""
        params = uploads.create_params(self.services, "acme/one", "ada")
        public = load_pem_public_key(params.public_key.encode())
        assert isinstance(public, rsa.RSAPublicKey)
        wrapped = public.encrypt(os.urandom(32), OAEP)
        return uploads.accept(self.services, params.params_id, wrapped, "RSAES_OAEP_SHA_256", "ada")

    def move(self, target: MainKeyUri, then: Callable[[], object]) -> None:
        """A deep repack; as soon as its move has closed, `then` takes the old main key away."""
        request = Request(environment=self.environment, target=target, mode=Mode.DEEP, actor="ada", override="a test")
        repack, taken = start_repack(self.services, request), False
        while walk_slice(self.services, repack.id):
            with self.services.database.read() as connection:
                repack = get_repack(connection, repack.id)
            if repack.move_closed_at is not None and not taken:
                then()
                taken = True
        assert taken
        self.check(target)

    def rotated(self, target: MainKeyUri) -> None:
        """A look at the main key is followed by a shallow repack, by itself."""
        before = self.latest()
        poll_now(self.services, str(target), in_transaction=lambda _: None)
        repack = self.latest()
        assert repack is not None
        assert (repack.mode, repack.actor) == (Mode.SHALLOW, "poller")
        assert before is None or repack.id > before.id
        while walk_slice(self.services, repack.id):
            pass
        self.check(target)

    def latest(self) -> Repack | None:
        with self.services.database.read() as connection:
            return latest_repack(connection, self.environment.id)

    def drop_old_lines(self) -> None:
        """Leave the newest generation of the managed key alone in its file."""
        comment, *_, newest = self.managed_file.read_text().splitlines(keepends=True)
        self.managed_file.write_text(comment + newest)

    def check(self, target: MainKeyUri) -> None:
        """The last repack has ended, nothing hangs from another key, and each key opens as it was born."""
        repack = self.latest()
        assert repack is not None
        assert repack.state == RepackState.FINISHED
        self.services.cache.clear()
        report = verify_environment(self.services, self.environment)
        assert (report.stale, report.draining, report.named) == (0, 0, [])
        with self.services.database.read() as connection:
            assert [top.main_key for top in live_tops(connection, self.environment.id)] == [str(target)]
        keyring = Keyring(self.services)
        assert {key: keyring.unwrap(key) for key in self.material} == self.material


@pytest.fixture
def simulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatorClient]:
    with running_simulator() as client:
        for name, value in client.environment.items():
            monkeypatch.setenv(name, value)
        yield client


@pytest.fixture
def story(openbao_server: OpenBaoServer, simulator: SimulatorClient, tmp_path: Path) -> Iterator[Story]:
    """On the platform's own key."""
    create_managed_key_file(tmp_path / "managed.key")
    token = tmp_path / "token"
    token.write_text(openbao_server.root_token)
    token.chmod(0o600)
    settings = Settings(
        database_url=SecretStr(f"sqlite:///{tmp_path / 'db.sqlite'}"),
        managed_key_file=tmp_path / "managed.key",
        openbao_address=openbao_server.address,
        openbao_token_file=token,
        slice_seconds=A_BATCH,
    )
    services = build_services(settings)
    migrate(services.database)
    yield Story(services, tmp_path / "managed.key")
    services.close()


def test_managed_uploaded_openbao_aws_and_back(
    story: Story, openbao_server: OpenBaoServer, simulator: SimulatorClient
) -> None:
    """Each main key goes as soon as its move has closed, and is missed by nothing; each rotation is followed."""
    services, away = story.services, story.managed_file.with_name("elsewhere")
    managed, bao = MainKeyUri("managed", ""), MainKeyUri("openbao", "team/transit/kinds")
    transit = "team/transit/keys/kinds"
    rotate_managed_key_file(story.managed_file)
    story.rotated(managed)
    story.drop_old_lines()

    def follow_managed() -> None:
        """The uploaded key stays sealed by the managed key: its older generations are what can go."""
        rotate_managed_key_file(story.managed_file)
        assert reseal(services) == 2
        story.drop_old_lines()

    first, second = story.upload(), story.upload()
    story.move(first, then=follow_managed)
    story.move(second, then=lambda: uploads.delete(services, first, "ada"))

    def leave_uploaded() -> None:
        uploads.delete(services, second, "ada")
        story.managed_file.rename(away)

    openbao_server.ask("POST", transit, {})
    story.move(bao, then=leave_uploaded)
    openbao_server.ask("POST", f"{transit}/rotate", {})
    story.rotated(bao)
    openbao_server.ask("POST", f"{transit}/config", {"min_decryption_version": 2, "deletion_allowed": True})

    aws = simulator.create_main_key()
    story.move(aws, then=lambda: openbao_server.ask("DELETE", transit))
    simulator.rotate(aws.name)
    story.rotated(aws)

    away.rename(story.managed_file)
    story.move(managed, then=lambda: simulator.delete(aws.name))
