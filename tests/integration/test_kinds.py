"""A hierarchy moves across kinds of main key, none of which the next one can read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import SecretStr

from schemas.keys import MainKeyUri
from schemas.states import Mode
from tests.servers import OpenBaoServer
from workers import uploads
from workers.compose import build_services
from workers.keyring import Keyring
from workers.kms.managed import create_managed_key_file
from workers.repack import Request, start_repack, walk_slice
from workers.services import Services
from workers.settings import Settings
from workers.store.environments import find_environment, live_tops
from workers.store.schema import migrate
from workers.verify import verify_environment

pytestmark = pytest.mark.acceptance
OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


def upload(services: Services) -> MainKeyUri:
    params = uploads.create_params(services, "acme/one", "ada")
    public = load_pem_public_key(params.public_key.encode())
    assert isinstance(public, rsa.RSAPublicKey)
    wrapped = public.encrypt(os.urandom(32), OAEP)
    return uploads.accept(services, params.params_id, wrapped, "RSAES_OAEP_SHA_256", "ada")


def repack(services: Services, target: MainKeyUri | None, mode: Mode = Mode.DEEP) -> None:
    with services.database.read() as connection:
        environment = find_environment(connection, "acme/one")
    request = Request(environment=environment, target=target, mode=mode, actor="ada", override="a test")
    started = start_repack(services, request)
    while walk_slice(services, started.id):
        pass
    report = verify_environment(services, environment)
    assert (report.stale, report.draining, report.named) == (0, 0, [])
    with services.database.read() as connection:
        tops = live_tops(connection, environment.id)
    assert [top.main_key for top in tops] == [str(target or tops[0].main_key)]


def test_managed_uploaded_openbao_and_back(openbao_server: OpenBaoServer, tmp_path: Path) -> None:
    """Each deep repack leaves nothing under the old kind, every key opens as it was, and a rotation is followed."""
    create_managed_key_file(tmp_path / "managed.key")
    token = tmp_path / "token"
    token.write_text(openbao_server.root_token)
    token.chmod(0o600)
    settings = Settings(
        database_url=SecretStr(f"sqlite:///{tmp_path / 'db.sqlite'}"),
        managed_key_file=tmp_path / "managed.key",
        openbao_address=openbao_server.address,
        openbao_token_file=token,
    )
    services = build_services(settings)
    try:
        migrate(services.database)
        keyring = Keyring(services)
        keyring.create_environment("acme", "one", actor="ada")
        parent = keyring.create_wrapping_key("acme/one")
        made = [keyring.create_data_key("acme/one", parent) for _ in range(20)]
        made.append(keyring.create_data_key("acme/one"))
        bao = MainKeyUri.parse("openbao:team/transit/kinds")
        openbao_server.ask("POST", "team/transit/keys/kinds", {})
        first, second = upload(services), upload(services)
        for target in (first, second, bao, MainKeyUri.parse("managed:"), bao):
            repack(services, target)
        openbao_server.ask("POST", "team/transit/keys/kinds/rotate", {})
        repack(services, None, Mode.SHALLOW)
        for uri in (first, second):
            uploads.delete(services, uri, "ada")
        (tmp_path / "managed.key").unlink()
        openbao_server.ask("POST", "team/transit/keys/kinds/config", {"min_decryption_version": 2})
        for key in made:
            assert Keyring(services).unwrap(key.key_id) == key.material
    finally:
        services.close()
