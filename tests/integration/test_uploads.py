"""Uploads on PostgreSQL: row locks in place of SQLite's one writer."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import SecretStr

from schemas.keys import MainKeyUri
from workers.compose import build_services
from workers.errors import Cause, KmsRefused, UploadParamsSpent
from workers.kms.local.managed import create_managed_key_file
from workers.main_keys import uploads
from workers.runtime.settings import Settings
from workers.store.environments import create_environment
from workers.store.schema import migrate

pytestmark = pytest.mark.acceptance
OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


def test_of_uploads_at_once_one_is_taken_and_its_deletion_counts(postgresql_url: str, tmp_path: Path) -> None:
    """R2: eight uploads by the same parameters make one key, which serves until it is deleted."""
    create_managed_key_file(tmp_path / "managed.key")
    settings = Settings(database_url=SecretStr(postgresql_url), managed_key_file=tmp_path / "managed.key")
    services = build_services(settings)
    taken: list[MainKeyUri] = []
    refused: list[UploadParamsSpent] = []
    try:
        migrate(services.database)
        with services.database.write() as connection:
            create_environment(connection, workspace="acme", name="one", main_key="managed:", generation=None)
        params = uploads.create_params(services, "acme/one", "ada")
        public = load_pem_public_key(params.public_key.encode())
        assert isinstance(public, rsa.RSAPublicKey)
        wrapped = public.encrypt(bytes(range(32)), OAEP)

        def upload() -> None:
            try:
                taken.append(uploads.accept(services, params.params_id, wrapped, "RSAES_OAEP_SHA_256", "ada"))
            except UploadParamsSpent as error:
                refused.append(error)

        threads = [threading.Thread(target=upload) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(taken), len(refused)) == (1, 7)
        key = services.kms.main_key(taken[0])
        services.loop.run(key.describe())
        assert uploads.delete(services, taken[0], "ada")
        with pytest.raises(KmsRefused) as caught:
            services.loop.run(key.describe())
        assert caught.value.cause is Cause.DELETED
    finally:
        services.close()
