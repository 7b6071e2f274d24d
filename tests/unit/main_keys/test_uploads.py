"""Keys that customers upload: both wrappings, every refusal, single use, expiry and deletion."""

from __future__ import annotations

import os
import sqlite3
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap, aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import SecretStr
from sqlalchemy import select, update

from schemas.keys import MainKeyUri
from workers.compose import build_services
from workers.errors import (
    Cause,
    KmsRefused,
    KmsUnreachable,
    NotConfigured,
    NotFound,
    UploadFault,
    UploadParamsSpent,
    UploadRefused,
)
from workers.kms.local.managed import create_managed_key_file, rotate_managed_key_file
from workers.kms.port import encryption_context
from workers.main_keys import uploads
from workers.main_keys.uploads import UploadAlgorithm, UploadParams
from workers.runtime.settings import Settings
from workers.services import Services
from workers.store.audit import records
from workers.store.environments import Environment, create_environment, find_environment
from workers.store.models import outbox, upload_params, uploaded_keys

OAEP, AES = UploadAlgorithm.RSAES_OAEP_SHA_256, UploadAlgorithm.RSA_AES_KEY_WRAP_SHA_256
KEY = bytes(range(100, 132))
ACTOR = "customer:ada"


@pytest.fixture
def services(migrated_sqlite_url: str, tmp_path: Path) -> Iterator[Services]:
    """A process's services on a fresh SQLite database, with one environment, acme/production."""
    create_managed_key_file(tmp_path / "managed.key")
    url = SecretStr(migrated_sqlite_url)
    made = build_services(Settings(database_url=url, managed_key_file=tmp_path / "managed.key"))
    with made.database.write() as connection:
        for name in ("production", "staging"):
            create_environment(connection, workspace="acme", name=name, main_key="managed:", generation=None)
    yield made
    made.close()


def environment(services: Services, name: str = "acme/production") -> Environment:
    with services.database.read() as connection:
        return find_environment(connection, name)


def oaep(params: UploadParams, key: bytes, *, digest: hashes.HashAlgorithm | None = None, label: bytes = b"") -> bytes:
    public = load_pem_public_key(params.public_key.encode())
    assert isinstance(public, rsa.RSAPublicKey)
    chosen = digest or hashes.SHA256()
    return public.encrypt(key, padding.OAEP(mgf=padding.MGF1(chosen), algorithm=chosen, label=label or None))


def key_wrap(params: UploadParams, key: bytes, *, size: int = 32) -> bytes:
    ephemeral = os.urandom(size)
    return oaep(params, ephemeral) + aes_key_wrap_with_padding(ephemeral, key)


WRAPPINGS = {OAEP: oaep, AES: key_wrap}


def new_params(services: Services) -> UploadParams:
    return uploads.create_params(services, "acme/production", ACTOR)


def new_key(services: Services, key: bytes = KEY) -> MainKeyUri:
    params = new_params(services)
    return uploads.accept(services, params.params_id, oaep(params, key), OAEP, ACTOR)


def context_of(services: Services, name: str = "acme/production") -> dict[str, str]:
    return encryption_context(environment(services, name).environment_id, uuid4())


def actions(services: Services) -> list[str]:
    with services.database.read() as connection:
        return [record.action for record in records(connection)]


def refusal(services: Services, params: UploadParams, wrapped: bytes, algorithm: str) -> UploadRefused:
    with pytest.raises(UploadRefused) as caught:
        uploads.accept(services, params.params_id, wrapped, algorithm, ACTOR)
    return caught.value


def test_parameters_are_what_a_customer_needs(services: Services) -> None:
    """They hold a 3072-bit RSA public key of their own, the algorithms' names and an end within a day."""
    first, second = new_params(services), uploads.create_params(services, "acme/production", ACTOR)
    public = load_pem_public_key(first.public_key.encode())
    assert isinstance(public, rsa.RSAPublicKey)
    assert public.key_size == 3072
    assert first.public_key != second.public_key
    assert first.algorithms == (OAEP, AES)
    assert first.environment == environment(services).environment_id
    assert 86_000 < first.expires_at.timestamp() - services.database.now() <= 86_400


@pytest.mark.parametrize("algorithm", list(UploadAlgorithm))
def test_an_uploaded_key_serves(services: Services, algorithm: UploadAlgorithm) -> None:
    """A key wrapped either way becomes a main key that describes, wraps and unwraps."""
    params = new_params(services)
    uri = uploads.accept(services, params.params_id, WRAPPINGS[algorithm](params, KEY), algorithm, ACTOR)
    assert uri.scheme == "uploaded"
    key, context = services.kms.main_key(uri), context_of(services)
    wrap = services.loop.run(key.wrap(bytes(32), context))
    assert services.loop.run(key.unwrap(wrap.blob, context)).material == bytes(32)
    assert services.loop.run(key.describe()).generation == wrap.generation == "1"


@pytest.mark.parametrize("size", [16, 24, 32])
def test_any_ephemeral_aes_key_will_do(services: Services, size: int) -> None:
    """RSA-AES key wrap takes an ephemeral AES key of each of its sizes."""
    params = new_params(services)
    uploads.accept(services, params.params_id, key_wrap(params, KEY, size=size), AES, ACTOR)


def corruptions(params: UploadParams) -> list[tuple[str, bytes, str, UploadFault]]:
    """(what, bytes, algorithm, fault): all that a customer, or the way, can do wrong."""
    good, wrapped = oaep(params, KEY), key_wrap(params, KEY)
    ephemeral, wrong = os.urandom(32), UploadFault.WRONG_WRAPPING
    other = UploadParams(
        params_id=params.params_id,
        environment=params.environment,
        public_key=uploads._pem(rsa.generate_private_key(public_exponent=65537, key_size=3072)),
        algorithms=params.algorithms,
        expires_at=params.expires_at,
    )
    flipped = [(f"flipped at {at}", _flip(good, at), OAEP, wrong) for at in (1, 200, 383)]
    flipped += [(f"flipped at {at}", _flip(wrapped, at), AES, wrong) for at in (1, 383, 384, 400, 423)]
    cut = [(f"cut to {length}", good[:length], OAEP, wrong) for length in (0, 1, 383)]
    cut += [(f"cut to {length}", wrapped[:length], AES, wrong) for length in (0, 383, 384, 392, 400, 423)]
    lengths = [(f"{n} bytes", oaep(params, os.urandom(n)), OAEP, UploadFault.WRONG_LENGTH) for n in (0, 16, 31, 33, 64)]
    lengths += [
        (f"{n} bytes", key_wrap(params, os.urandom(n)), AES, UploadFault.WRONG_LENGTH) for n in (1, 31, 33, 999)
    ]
    equal = [
        (f"all {byte}", wrap(params, bytes([byte]) * 32), algorithm, UploadFault.ALL_BYTES_EQUAL)
        for byte in (0, 1, 255)
        for algorithm, wrap in WRAPPINGS.items()
    ]
    return [
        *flipped,
        *cut,
        *lengths,
        *equal,
        ("one byte more", good + b"\0", OAEP, wrong),
        ("one byte more", wrapped + b"\0", AES, wrong),
        ("a whole file", bytes(100_000), OAEP, wrong),
        ("a whole file", bytes(100_000), AES, wrong),
        ("plain", KEY, OAEP, wrong),
        ("plain", KEY, AES, wrong),
        ("SHA-1", oaep(params, KEY, digest=hashes.SHA1()), OAEP, wrong),
        ("a label", oaep(params, KEY, label=b"x"), OAEP, wrong),
        ("another public key", oaep(other, KEY), OAEP, wrong),
        ("another public key", key_wrap(other, KEY), AES, wrong),
        ("the other algorithm", good, AES, wrong),
        ("the other algorithm", wrapped, OAEP, wrong),
        ("key wrap without padding", oaep(params, ephemeral) + aes_key_wrap(ephemeral, KEY), AES, wrong),
        ("no AES key", oaep(params, b"x" * 5) + wrapped[384:], AES, wrong),
        ("unknown", good, "RSAES_OAEP_SHA_1", UploadFault.UNKNOWN_ALGORITHM),
        ("unknown", good, "", UploadFault.UNKNOWN_ALGORITHM),
    ]


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_every_corruption_is_refused_by_its_name(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong with an upload is named; nothing secret shows, and the right one is still taken after."""
    monkeypatch.setattr(uploads, "MAX_REFUSALS", 10_000)
    params = new_params(services)
    tried = corruptions(params)
    for what, wrapped, algorithm, fault in tried:
        error = refusal(services, params, wrapped, algorithm)
        assert error.fault is fault, what
        assert error.code == f"upload_{fault.value}"
        said = "".join(traceback.format_exception(error))
        assert KEY.hex() not in said
        assert repr(KEY)[2:-1] not in said
        assert error.remedy
    uploads.accept(services, params.params_id, oaep(params, KEY), OAEP, ACTOR)
    assert actions(services).count("main_key.upload_refused") == len(tried)


def test_too_many_refusals_end_the_parameters(services: Services) -> None:
    """After five refused uploads the private key is destroyed, so that nothing can be learnt by trying."""
    params = new_params(services)
    for _ in range(5):
        refusal(services, params, b"x", OAEP)
    with pytest.raises(UploadParamsSpent, match="5 uploads were refused"):
        uploads.accept(services, params.params_id, oaep(params, KEY), OAEP, ACTOR)
    assert stored_secrets(services) == [(None, None, "given_up")]


def stored_secrets(services: Services) -> list[tuple[bytes | None, bytes | None, str]]:
    columns = upload_params.c
    with services.database.read() as connection:
        query = select(columns.wrapped_key, columns.sealed_private_key, columns.state).order_by(columns.id)
        return [(row[0], row[1], row[2]) for row in connection.execute(query)]


def test_parameters_serve_once(services: Services) -> None:
    """A second upload by the same parameters is refused; their private key is gone with the first."""
    params = new_params(services)
    uploads.accept(services, params.params_id, oaep(params, KEY), OAEP, ACTOR)
    assert stored_secrets(services) == [(None, None, "used")]
    with pytest.raises(UploadParamsSpent, match="uploaded by them already"):
        uploads.accept(services, params.params_id, oaep(params, KEY), OAEP, ACTOR)


def test_of_two_uploads_at_once_one_is_taken(services: Services) -> None:
    """R2: four uploads by the same parameters at the same time make one key."""
    params, taken, refused = new_params(services), [], []

    def upload() -> None:
        try:
            taken.append(uploads.accept(services, params.params_id, oaep(params, KEY), OAEP, ACTOR))
        except UploadParamsSpent as error:
            refused.append(error)

    threads = [threading.Thread(target=upload) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), len(refused)) == (1, 3)
    with services.database.read() as connection:
        assert len(connection.execute(select(uploaded_keys.c.id)).all()) == 1


def test_parameters_expire(services: Services) -> None:
    """A day later they take no key, and their private key is destroyed, used or not."""
    params, young = new_params(services), new_params(services)
    with services.database.write() as connection:
        condition = upload_params.c.params_id == params.params_id
        connection.execute(update(upload_params).where(condition).values(expires_at=services.database.now() - 1))
    with pytest.raises(UploadParamsSpent, match="24 hours"):
        uploads.accept(services, params.params_id, oaep(params, KEY), OAEP, ACTOR)
    gone, kept = stored_secrets(services)
    assert gone == (None, None, "expired")
    assert kept[0] is not None
    assert uploads.end_expired(services) == 0
    uploads.accept(services, young.params_id, oaep(young, KEY), OAEP, ACTOR)


def test_unknown_parameters_are_not_found(services: Services) -> None:
    """An id that was never given out is told as such."""
    with pytest.raises(NotFound, match="upload parameters"):
        uploads.accept(services, uuid4(), b"x", OAEP, ACTOR)
    with pytest.raises(NotFound, match="environment"):
        uploads.create_params(services, "acme/none", ACTOR)


def test_parameters_of_another_row_do_not_open(services: Services) -> None:
    """R6: a private key that was moved to other parameters does not open there."""
    first, second = new_params(services), new_params(services)
    with services.database.write() as connection:
        columns = upload_params.c
        query = select(columns.wrapped_key, columns.sealed_private_key).where(columns.params_id == first.params_id)
        moved = dict(connection.execute(query).mappings().one())
        connection.execute(update(upload_params).where(columns.params_id == second.params_id).values(moved))
    with pytest.raises(KmsRefused, match="does not open"):
        uploads.accept(services, second.params_id, oaep(first, KEY), OAEP, ACTOR)


def test_nothing_secret_is_stored(services: Services, tmp_path: Path) -> None:
    """Neither the uploaded key nor the private key is anywhere in the database in clear (R10)."""
    params = new_params(services)
    secret = stored_private_key(services, params)
    uploads.accept(services, params.params_id, oaep(params, KEY), OAEP, ACTOR)
    with sqlite3.connect(tmp_path / "db.sqlite") as connection:
        dump = "\n".join(connection.iterdump()).lower()
    for form in (KEY, secret):
        assert form.hex() not in dump
    assert KEY not in b"".join(path.read_bytes() for path in tmp_path.glob("db.sqlite*"))


def stored_private_key(services: Services, params: UploadParams) -> bytes:
    """A piece of the private key's own number."""
    with services.database.read() as connection:
        stored = uploads.store.find_params(connection, params.params_id)
    assert stored is not None
    numbers = uploads._private_key(services, stored).private_numbers()
    return numbers.p.to_bytes(192, "big")


def test_a_deleted_key_is_refused_for_good(services: Services, tmp_path: Path) -> None:
    """Deletion overwrites the sealed bytes, and from then on every use is refused as deleted."""
    uri = new_key(services)
    key, context = services.kms.main_key(uri), context_of(services)
    wrap = services.loop.run(key.wrap(bytes(32), context))
    with services.database.read() as connection:
        sealed = connection.execute(select(uploaded_keys.c.sealed)).scalar_one()
    epoch = environment(services).epoch
    assert uploads.delete(services, uri, ACTOR)
    for call in (key.describe(), key.generate(context), key.wrap(bytes(32), context), key.unwrap(wrap.blob, context)):
        with pytest.raises(KmsRefused) as caught:
            services.loop.run(call)
        assert caught.value.cause is Cause.DELETED
    assert environment(services).epoch == epoch + 1
    with sqlite3.connect(tmp_path / "db.sqlite") as connection:
        assert sealed.hex() not in "\n".join(connection.iterdump()).lower()


def test_deleting_twice_is_one_deletion(services: Services) -> None:
    """A repeated deletion changes and tells nothing; one of what is no uploaded key is not found."""
    uri = new_key(services)
    assert uploads.delete(services, uri, ACTOR)
    before = actions(services)
    assert not uploads.delete(services, uri, ACTOR)
    assert actions(services) == before
    for other in (f"uploaded:{uuid4()}", "managed:", "memory:a"):
        with pytest.raises(NotFound):
            uploads.delete(services, MainKeyUri.parse(other), ACTOR)


def test_every_change_is_told(services: Services) -> None:
    """R11: parameters, refusal, upload and deletion are audit records by their actor; the last three are events."""
    params = new_params(services)
    refusal(services, params, b"x", OAEP)
    uri = uploads.accept(services, params.params_id, oaep(params, KEY), OAEP, ACTOR)
    uploads.delete(services, uri, ACTOR)
    expected = ["main_key.upload_refused", "main_key.uploaded", "main_key.deleted"]
    with services.database.read() as connection:
        told = [record for record in records(connection) if record.action.startswith("main_key.")]
        assert [row.type for row in connection.execute(select(outbox.c.type)) if row.type in expected] == expected
    assert [record.action for record in told] == ["main_key.upload_params_created", *expected]
    assert {record.actor for record in told} == {ACTOR}
    assert str(uri) in told[2].facts


def test_a_key_works_for_its_own_environment_alone(services: Services) -> None:
    """Another environment's keys are not wrapped by it, whoever names it."""
    key = services.kms.main_key(new_key(services))
    with pytest.raises(KmsRefused, match="another environment") as caught:
        services.loop.run(key.wrap(bytes(32), context_of(services, "acme/staging")))
    assert caught.value.cause is Cause.DENIED


def test_a_sealed_key_of_another_row_does_not_open(services: Services) -> None:
    """R6: sealed bytes moved to another upload do not open; the key is unavailable, its wraps are not blamed."""
    first, second = new_key(services), new_key(services, bytes(range(32)))
    context = context_of(services)
    wrap = services.loop.run(services.kms.main_key(second).wrap(bytes(32), context))
    with services.database.write() as connection:
        columns = uploaded_keys.c
        moved = select(columns.sealed).where(columns.key_id == UUID(first.name)).scalar_subquery()
        condition = columns.key_id == UUID(second.name)
        connection.execute(update(uploaded_keys).where(condition).values(sealed=moved))
    with pytest.raises(KmsRefused) as caught:
        services.loop.run(services.kms.main_key(second).unwrap(wrap.blob, context))
    assert caught.value.cause is Cause.UNAVAILABLE


def test_a_rotation_of_the_platforms_key_takes_nothing_away(services: Services, tmp_path: Path) -> None:
    """What was sealed by an older generation opens as long as the file has it."""
    uri, params = new_key(services), new_params(services)
    rotate_managed_key_file(tmp_path / "managed.key")
    services.loop.run(services.kms.main_key(uri).describe())
    uploads.accept(services, params.params_id, oaep(params, KEY), OAEP, ACTOR)


def test_without_the_platforms_key_all_of_it_is_closed(services: Services, tmp_path: Path) -> None:
    """Without the managed key file nothing is sealed and nothing opens."""
    uri = new_key(services)
    (tmp_path / "managed.key").unlink()
    with pytest.raises(NotConfigured):
        new_params(services)
    with pytest.raises(NotConfigured):
        services.loop.run(services.kms.main_key(uri).describe())


def test_a_database_that_is_away_is_no_refusal(services: Services) -> None:
    """An uploaded key whose row cannot be read is unreachable, never deleted."""
    uri = new_key(services)
    services.database.close()
    file = Path(str(services.database.engine.url.database))
    for path in file.parent.glob(f"{file.name}*"):
        path.unlink()
    file.mkdir()
    with pytest.raises(KmsUnreachable):
        services.loop.run(services.kms.main_key(uri).describe())
