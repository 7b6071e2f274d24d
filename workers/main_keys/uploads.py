"""Keys that customers upload: parameters to wrap one by, the upload itself, and its deletion.

    params = create_params(services, "acme/production", actor)   # the customer wraps a key for params.public_key
    uri = accept(services, params.params_id, wrapped, UploadAlgorithm.RSAES_OAEP_SHA_256, actor)
    delete(services, uri, actor)                                  # for good

What the customer sends is one of::

    RSAES_OAEP_SHA_256:       RSAES-OAEP of the key (384 bytes); SHA-256, MGF1 with SHA-256, no label (RFC 8017)
    RSA_AES_KEY_WRAP_SHA_256: RSAES-OAEP of an AES key (384 bytes) ‖ AES-KWP of the key under it (RFC 5649);
                              PKCS #11 calls it CKM_RSA_AES_KEY_WRAP

The private key is sealed by AES-256-GCM under a key of its own, which the platform's own main key wraps::

    nonce (12) ‖ ciphertext of PKCS #8 DER ‖ tag (16)       associated data: "keyrepack/upload-params" ‖ id (16)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID, uuid4

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap_with_padding

from schemas.envelope import NONCE_BYTES
from schemas.keys import KEY_BYTES, MainKeyUri
from schemas.keys import MANAGED as MANAGED
from workers.errors import (
    Cause,
    KmsRefused,
    NotFound,
    UploadFault,
    UploadParamsSpent,
    UploadRefused,
    WrapReason,
    WrapRefused,
)
from workers.kms.local.uploaded import sealing_context
from workers.kms.port import MainKey
from workers.runtime.transaction_retry import again_after_conflict
from workers.services import Services
from workers.store import uploads as store
from workers.store.database import Connection
from workers.store.environments import Environment, find_environment, get_environment, lock_environment, raise_epoch
from workers.store.outbox import record_event
from workers.store.uploads import Params, ParamsState

RSA_BITS = 3072
"""As strong as AES-128 and good beyond 2030 (NIST SP 800-57): the key travels once, within a day."""

RSA_BYTES = RSA_BITS // 8
PARAMS_SECONDS = 24 * 3600.0
"""Time for a ceremony in the customer's vault room; then the private key is destroyed."""

MAX_REFUSALS = 5
"""Room for a wrong command or two; too little to learn anything from what is refused."""

MAX_WRAPPED_BYTES = 4096
"""A 256-bit key wrapped either way has at most 424: longer is another file."""

_OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
_ASSOCIATED = b"keyrepack/upload-params"


class UploadAlgorithm(StrEnum):
    """How a key may be wrapped for the public key."""

    RSAES_OAEP_SHA_256 = "RSAES_OAEP_SHA_256"
    RSA_AES_KEY_WRAP_SHA_256 = "RSA_AES_KEY_WRAP_SHA_256"


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadParams:
    """What a customer needs to wrap a key."""

    params_id: UUID
    environment: UUID
    public_key: str  # PEM, SubjectPublicKeyInfo
    algorithms: tuple[UploadAlgorithm, ...]
    expires_at: datetime


def create_params(services: Services, environment: str | UUID, actor: str) -> UploadParams:
    """Create parameters for an environment's next key. Raises NotFound, NotConfigured without the managed key."""
    with services.database.read() as connection:
        found = find_environment(connection, environment)
    params_id, private_key = uuid4(), rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    secret = services.random(KEY_BYTES)
    sealed = _seal_private_key(private_key, secret, params_id, services.random(NONCE_BYTES))
    context = _params_context(found.environment_id, params_id)
    wrapped = services.loop.run(_managed(services).wrap(secret, context))
    with services.database.write() as connection:
        expires_at = store.insert_params(
            connection,
            params_id=params_id,
            environment=found.id,
            wrapped_key=wrapped.blob,
            sealed_private_key=sealed,
            generation=wrapped.generation,
            seconds=PARAMS_SECONDS,
        )
        _tell(connection, "main_key.upload_params_created", actor, found, {"params": str(params_id)})
    return UploadParams(
        params_id=params_id,
        environment=found.environment_id,
        public_key=_pem(private_key),
        algorithms=tuple(UploadAlgorithm),
        expires_at=datetime.fromtimestamp(expires_at, UTC),
    )


@again_after_conflict
def accept(services: Services, params_id: UUID, wrapped: bytes, algorithm: str, actor: str) -> MainKeyUri:
    """Take a wrapped key in; returns its URI. The parameters are used up by it.

    Raises UploadRefused (`fault`), UploadParamsSpent, NotFound; a refused upload leaves the parameters open
    MAX_REFUSALS times.
    """
    params = _open_params(services, params_id)
    try:
        material = _unwrap(_private_key(services, params), wrapped, algorithm, params_id)
    except UploadRefused as error:
        _note_refusal(services, params, error, actor)
        raise
    key_id = uuid4()
    context = sealing_context(params.environment_id, key_id)
    sealed = services.loop.run(_managed(services).wrap(material, context))
    uri = MainKeyUri("uploaded", str(key_id))
    with services.database.write() as connection:
        _require_open(
            store.find_params(connection, params_id, lock=True), params_id
        )  # R2: one key, of the first request
        store.insert_key(
            connection,
            key_id=key_id,
            environment=params.environment,
            sealed=sealed.blob,
            generation=sealed.generation,
        )
        store.end_params(connection, params_id, ParamsState.USED)
        environment = get_environment(connection, params.environment)
        facts = {"main_key": str(uri), "params": str(params_id), "algorithm": algorithm}
        _tell(connection, "main_key.uploaded", actor, environment, facts)
    services.wake.outbox()
    return uri


@again_after_conflict
def delete(services: Services, uri: MainKeyUri, actor: str, *, reason: str = "") -> bool:
    """Crypto-shred an uploaded key by the customer's word, in use or not. Returns whether it was there until now.

    Every process drops the environment's plaintext (R8). Copies in the database's backups stay sealed by the platform's
    own key. Raises NotFound.
    """
    key_id = _key_id(uri)
    with services.database.write() as connection:
        stored = store.find_key(connection, key_id)
        if stored is None:
            raise NotFound("uploaded key", uri)
        environment = lock_environment(connection, find_environment(connection, stored.environment).id)
        if not store.shred_key(connection, key_id):
            return False
        raise_epoch(connection, environment.id)
        _tell(connection, "main_key.deleted", actor, environment, {"main_key": str(uri), "reason": reason})
    services.epochs.announce([environment.environment_id])
    services.wake.outbox()
    return True


def end_expired(services: Services) -> int:
    """Destroy the private keys of parameters that have expired. Returns how many there were. Safe to repeat."""
    with services.database.write() as connection:
        ended = store.end_expired_params(connection)
        for params_id, row in ended:
            environment, facts = get_environment(connection, row), {"params": str(params_id)}
            _tell(connection, "main_key.upload_params_expired", services.owner, environment, facts)
    return len(ended)


def _open_params(services: Services, params_id: UUID) -> Params:
    """Return the parameters, while they take a key. Raises NotFound, UploadParamsSpent."""
    end_expired(services)
    with services.database.read() as connection:
        return _require_open(store.find_params(connection, params_id), params_id)


def _require_open(params: Params | None, params_id: UUID) -> Params:
    if params is None:
        raise NotFound("upload parameters", params_id)
    state = ParamsState.EXPIRED if params.state is ParamsState.OPEN and params.is_expired else params.state
    whys = {
        ParamsState.USED: "A key was uploaded by them already.",
        ParamsState.EXPIRED: f"They held for {PARAMS_SECONDS / 3600:.0f} hours.",
        ParamsState.GIVEN_UP: f"{MAX_REFUSALS} uploads were refused.",
    }
    if state is not ParamsState.OPEN:
        raise UploadParamsSpent(params=params_id, why=whys[state])
    return params


def _note_refusal(services: Services, params: Params, error: UploadRefused, actor: str) -> None:
    with services.database.write() as connection:
        current = store.find_params(connection, params.params_id, lock=True)
        if current is None or current.state is not ParamsState.OPEN:
            return
        store.count_refusal(connection, params.params_id)
        if current.refusals + 1 >= MAX_REFUSALS:
            store.end_params(connection, params.params_id, ParamsState.GIVEN_UP)
        facts = {"params": str(params.params_id), "code": error.code, "refusals": current.refusals + 1}
        _tell(connection, "main_key.upload_refused", actor, get_environment(connection, params.environment), facts)


def _unwrap(private_key: rsa.RSAPrivateKey, wrapped: bytes, algorithm: str, params: UUID) -> bytes:
    """Unwrap the uploaded key: 32 bytes, not all equal. Raises UploadRefused; nothing of the key is in it (R10)."""
    if algorithm not in set(UploadAlgorithm):
        why = f"The algorithms are {', '.join(UploadAlgorithm)}."
        raise UploadRefused(params=params, fault=UploadFault.UNKNOWN_ALGORITHM, why=why)
    try:
        material = _decrypted(private_key, wrapped, UploadAlgorithm(algorithm))
    except (ValueError, InvalidUnwrap) as error:
        why = f"Its {len(wrapped)} bytes do not open by {algorithm} and these parameters' private key."
        raise UploadRefused(params=params, fault=UploadFault.WRONG_WRAPPING, why=why) from error
    if len(material) != KEY_BYTES:
        why = f"It has {len(material)} bytes; a main key has {KEY_BYTES}."
        raise UploadRefused(params=params, fault=UploadFault.WRONG_LENGTH, why=why)
    if len(set(material)) == 1:
        raise UploadRefused(params=params, fault=UploadFault.ALL_BYTES_EQUAL, why="All its bytes are equal.")
    return material


def _decrypted(private_key: rsa.RSAPrivateKey, wrapped: bytes, algorithm: UploadAlgorithm) -> bytes:
    """Decrypt by the algorithm that was named. Raises ValueError, InvalidUnwrap."""
    if len(wrapped) > MAX_WRAPPED_BYTES:
        raise ValueError("too long")
    if algorithm is UploadAlgorithm.RSAES_OAEP_SHA_256:
        return private_key.decrypt(wrapped, _OAEP)
    wrapping_key = private_key.decrypt(wrapped[:RSA_BYTES], _OAEP)
    return aes_key_unwrap_with_padding(wrapping_key, wrapped[RSA_BYTES:])


def _seal_private_key(private_key: rsa.RSAPrivateKey, secret: bytes, params_id: UUID, nonce: bytes) -> bytes:
    plain = private_key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return nonce + AESGCM(secret).encrypt(nonce, plain, _ASSOCIATED + params_id.bytes)


def _private_key(services: Services, params: Params) -> rsa.RSAPrivateKey:
    """Open the parameters' private key. Raises KmsRefused if the platform's own key does not open it."""
    context = _params_context(params.environment_id, params.params_id)
    sealed = params.sealed_private_key or b""
    try:
        opened = services.loop.run(_managed(services).unwrap(params.wrapped_key or b"", context))
        associated = _ASSOCIATED + params.params_id.bytes
        plain = AESGCM(opened.material).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], associated)
    except (WrapRefused, InvalidTag, ValueError) as error:
        reason = error.reason if isinstance(error, WrapRefused) else WrapReason.DOES_NOT_OPEN
        detail = f"The private key of upload parameters {params.params_id} does not open ({reason.value})."
        remedy = "Ask for new upload parameters."
        cause = Cause.UNAVAILABLE
        raise KmsRefused(
            main_key=str(MANAGED), cause=cause, operation="unwrap", detail=detail, remedy=remedy
        ) from error
    key = serialization.load_der_private_key(plain, password=None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def _pem(private_key: rsa.RSAPrivateKey) -> str:
    public = private_key.public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode(
        "ascii"
    )


def _params_context(environment: UUID, params_id: UUID) -> dict[str, str]:
    return {"keyrepack:environment": str(environment), "keyrepack:upload-params": str(params_id)}


def _managed(services: Services) -> MainKey:
    return services.kms.main_key(MANAGED)


def _key_id(uri: MainKeyUri) -> UUID:
    if uri.scheme != "uploaded":
        raise NotFound("uploaded key", uri, "Only an uploaded key is deleted here; others in their own KMS.")
    return UUID(uri.name)


def _tell(
    connection: Connection, action: str, actor: str, environment: Environment, facts: Mapping[str, object]
) -> None:
    record_event(connection, action, actor=actor, environment_id=environment.environment_id, facts=facts)
