"""Uploaded keys follow a rotation of the platform's own main key, by housekeeping alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import SecretStr
from sqlalchemy import update

from schemas.keys import MainKeyUri
from workers.compose import build_services
from workers.keyring.keyring import Keyring
from workers.kms.local.managed import create_managed_key_file, managed_generations, rotate_managed_key_file
from workers.kms.local.memory import MemoryKms
from workers.kms.port import encryption_context
from workers.main_keys import resealing, uploads
from workers.main_keys.inventory import ManagedGeneration, list_managed_generations
from workers.main_keys.resealing import reseal
from workers.maintenance.sweeper import sweep
from workers.runtime.settings import Settings
from workers.services import Services
from workers.store.audit import records
from workers.store.models import metadata, upload_params, uploaded_keys

OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
CONTEXT = encryption_context(UUID(int=0), UUID(int=1))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file of the platform's own main key."""
    create_managed_key_file(tmp_path / "managed.key")
    return tmp_path / "managed.key"


@pytest.fixture
def services(tmp_path: Path, file: Path) -> Iterator[Services]:
    """One environment on `managed:`, acme/production."""
    url = SecretStr(f"sqlite:///{tmp_path / 'db.sqlite'}")
    made = build_services(Settings(database_url=url, managed_key_file=file))
    with made.database.write() as connection:
        metadata.create_all(connection)
    Keyring(made).create_environment("acme", "production", actor="test")
    yield made
    made.close()


def upload(services: Services) -> MainKeyUri:
    """A key of the customer's, taken in."""
    params = uploads.create_params(services, "acme/production", "ada")
    public = load_pem_public_key(params.public_key.encode())
    assert isinstance(public, rsa.RSAPublicKey)
    wrapped = public.encrypt(bytes(range(32)), OAEP)
    return uploads.accept(services, params.params_id, wrapped, "RSAES_OAEP_SHA_256", "ada")


def generations(services: Services) -> list[str | None]:
    """By which generation each uploaded key is sealed."""
    with services.database.read() as connection:
        return [row.generation for row in connection.execute(uploaded_keys.select().order_by(uploaded_keys.c.id))]


def drop_oldest(file: Path) -> None:
    """Take the oldest generation out of the file."""
    comment, _, *others = file.read_text().splitlines(keepends=True)
    file.write_text("".join([comment, *others]))


def test_an_old_generation_can_be_dropped(services: Services, file: Path) -> None:
    """A sweep after a rotation seals every uploaded key anew, once; then each opens without the old generation."""
    uris = [upload(services), upload(services)]
    blob = services.loop.run(services.kms.main_key(uris[0]).wrap(bytes(32), _context(services))).blob
    assert sweep(services).resealed == 0
    fresh = rotate_managed_key_file(file)
    assert sweep(services).resealed == 2
    assert generations(services) == [fresh, fresh]
    assert sweep(services).resealed == 0
    drop_oldest(file)
    assert services.loop.run(services.kms.main_key(uris[0]).unwrap(blob, _context(services))).material == bytes(32)
    with services.database.read() as connection:
        told = [record for record in records(connection) if record.action == "main_key.resealed"]
    assert [fresh in record.facts for record in told] == [True, True]


def _context(services: Services) -> dict[str, str]:
    with services.database.read() as connection:
        environment = uploads.find_environment(connection, "acme/production")
    return encryption_context(environment.environment_id, UUID(int=7))


def test_what_was_sealed_before_generations_were_written_down_is_found(services: Services, file: Path) -> None:
    """A row without its generation gets one, and that is no resealing to be told."""
    upload(services)
    with services.database.write() as connection:
        connection.execute(update(uploaded_keys).values(generation=None))
    assert reseal(services) == 1
    assert generations(services) == managed_generations(file)


def test_pages_go_on_past_keys_that_do_not_open(
    services: Services, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host whose file lacks a generation leaves those keys as they are, and seals the others."""
    monkeypatch.setattr(resealing, "PAGE", 2)
    old = [upload(services) for _ in range(3)]
    rotate_managed_key_file(file)
    young = [upload(services) for _ in range(3)]
    drop_oldest(file)
    fresh = rotate_managed_key_file(file)
    before = generations(services)[:3]
    assert reseal(services) == len(young)
    assert generations(services) == [*before, fresh, fresh, fresh]
    assert len(old) == 3


def test_a_deleted_key_is_not_brought_back(services: Services, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R2: a key that is deleted while it is sealed anew stays shredded."""
    uri = upload(services)
    rotate_managed_key_file(file)
    page = resealing._reseal_page

    def late(services: Services, found: list[resealing.StoredSeal]) -> int:
        uploads.delete(services, uri, "ada")
        return page(services, found)

    monkeypatch.setattr(resealing, "_reseal_page", late)
    assert reseal(services) == 0
    with services.database.read() as connection:
        assert [row.sealed for row in connection.execute(uploaded_keys.select())] == [None]


def test_a_process_without_the_platforms_key_reseals_nothing(tmp_path: Path) -> None:
    """Nothing is known there of any generation."""
    url = SecretStr(f"sqlite:///{tmp_path / 'other.sqlite'}")
    for settings, providers in (
        (Settings(database_url=url), [MemoryKms()]),
        (Settings(database_url=url, managed_key_file=tmp_path / "nowhere"), None),
    ):
        made = build_services(settings, providers=providers)
        assert reseal(made) == 0
        made.close()


def test_the_inventory_tells_what_hangs_from_an_older_generation(services: Services, file: Path) -> None:
    """Roots, uploaded keys and open upload parameters, by generation; one that nothing hangs from is not needed."""
    Keyring(services).create_data_key("acme/production")
    upload(services)
    uploads.create_params(services, "acme/production", "ada")
    first, second = managed_generations(file)[0], rotate_managed_key_file(file)

    def listed() -> list[ManagedGeneration]:
        return list_managed_generations(services, managed_generations(file))

    assert [(one.generation, one.roots, one.uploaded_keys, one.upload_params) for one in listed()] == [
        (first, 1, 1, 1),
        (second, 0, 0, 0),
    ]
    assert [one.is_needed for one in listed()] == [True, True]
    reseal(services)
    with services.database.write() as connection:
        connection.execute(update(upload_params).values(wrapped_key=None))
    assert [(one.roots, one.uploaded_keys, one.upload_params) for one in listed()] == [(1, 0, 0), (0, 1, 0)]
    drop_oldest(file)
    missing = listed()[-1]
    assert (missing.generation, missing.is_in_file, missing.roots) == (first, False, 1)
