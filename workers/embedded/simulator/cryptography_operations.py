"""Encrypt, Decrypt, ReEncrypt, GenerateDataKey: what moto does with one material for ever, done with generations."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from typing import Any

from workers.embedded.simulator.keys import Keys, SimulatedKey
from workers.embedded.simulator.material import Blob
from workers.embedded.simulator.policy import require_permission
from workers.embedded.simulator.refusals import Refusal
from workers.embedded.simulator.request import KmsCall
from workers.embedded.simulator.states import require_state

MAX_PLAINTEXT = 4096
MAX_BLOB = 6144
MAX_DATA_KEY = 1024
"""Bytes, from botocore's model of the API."""

_ALGORITHM = "SYMMETRIC_DEFAULT"
_DATA_KEY_BYTES = {"AES_256": 32, "AES_128": 16}

Answer = dict[str, Any]


class CryptographicOperations:
    """The operations that use a key's material. Each is asked for permission, state and usage, in AWS's order."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.table: Mapping[str, Callable[[KmsCall], Answer]] = {
            "Encrypt": self._encrypt,
            "Decrypt": self._decrypt,
            "ReEncrypt": self._re_encrypt,
            "GenerateDataKey": self._generate_data_key,
            "GenerateDataKeyWithoutPlaintext": self._generate_data_key_without_plaintext,
        }

    def answer(self, call: KmsCall) -> Answer:
        """Do it; with DryRun, all but the answer: DryRunOperationException where the call would have passed."""
        answer = self.table[call.operation](call)
        if call.parameters.get("DryRun") is True:
            raise Refusal("DryRunOperationException", "The request would have succeeded, but the DryRun flag is set.")
        return answer

    def _encrypt(self, call: KmsCall) -> Answer:
        context = call.context()
        key = self._usable(call, call.text("KeyId"), "Encrypt", context)
        blob = key.material.seal(key.arn, call.blob("Plaintext", MAX_PLAINTEXT), context)
        return {"CiphertextBlob": _text(blob), "KeyId": key.arn, "EncryptionAlgorithm": _ALGORITHM}

    def _decrypt(self, call: KmsCall) -> Answer:
        key, blob, plaintext = self._opened(call, "KeyId", "Decrypt", call.context())
        return {
            "KeyId": key.arn,
            "Plaintext": _text(plaintext),
            "EncryptionAlgorithm": _ALGORITHM,
            **key.material_id(blob.material_id),
        }

    def _re_encrypt(self, call: KmsCall) -> Answer:
        source_context = call.context("SourceEncryptionContext")
        target_context = call.context("DestinationEncryptionContext")
        source, blob, plaintext = self._opened(call, "SourceKeyId", "ReEncryptFrom", source_context)
        target = self._usable(call, call.text("DestinationKeyId"), "ReEncryptTo", target_context)
        answer = {
            "CiphertextBlob": _text(target.material.seal(target.arn, plaintext, target_context)),
            "SourceKeyId": source.arn,
            "KeyId": target.arn,
            "SourceEncryptionAlgorithm": _ALGORITHM,
            "DestinationEncryptionAlgorithm": _ALGORITHM,
        }
        for side, named in (("Source", source.material_id(blob.material_id)), ("Destination", target.material_id())):
            answer.update({f"{side}{name}": value for name, value in named.items()})
        return answer

    def _generate_data_key(self, call: KmsCall) -> Answer:
        context = call.context()
        key = self._usable(call, call.text("KeyId"), call.operation, context)
        plaintext = os.urandom(_data_key_bytes(call))
        return {
            "CiphertextBlob": _text(key.material.seal(key.arn, plaintext, context)),
            "Plaintext": _text(plaintext),
            "KeyId": key.arn,
            **key.material_id(),
        }

    def _generate_data_key_without_plaintext(self, call: KmsCall) -> Answer:
        answer = self._generate_data_key(call)
        del answer["Plaintext"]
        return answer

    def _opened(
        self, call: KmsCall, key_parameter: str, action: str, context: Mapping[str, str]
    ) -> tuple[SimulatedKey, Blob, bytes]:
        """Open CiphertextBlob: return the key, the blob's parts and the plaintext; a named key must be the one that
        made it.
        """
        data = call.blob("CiphertextBlob", MAX_BLOB)
        named = call.parameters.get(key_parameter)
        key = self._usable(call, str(named), action, context) if named else None
        blob = Blob.parse(data)
        if key is None:
            key = self._usable(call, _local(blob.arn, call.region), action, context)
        elif not key.is_of(blob.arn):
            raise Refusal("IncorrectKeyException", "The key in the request is not the one that made the blob.")
        return key, blob, key.material.open(blob, context)

    def _usable(self, call: KmsCall, identifier: str, action: str, context: Mapping[str, str]) -> SimulatedKey:
        key = self._keys.find(identifier, call.account, call.region)
        require_permission(
            policy=key.moto.policy,
            action=action,
            caller=call.account,
            owner=key.moto.account_id,
            arn=key.arn,
            context=context,
        )
        require_state(call.operation, key.state, key.arn)
        if not key.is_symmetric:
            usage = f"{key.arn} key usage is {key.moto.key_usage} ({key.moto.key_spec})."
            raise Refusal("InvalidKeyUsageException", usage)
        return key


def _local(arn: str, region: str) -> str:
    """Find the key that opens a blob of `arn` in `region`: of a multi-region key, the one there."""
    parts = arn.split(":")
    if len(parts) == 6 and parts[5].startswith("key/mrk-"):
        parts[3] = region
    return ":".join(parts)


def _data_key_bytes(call: KmsCall) -> int:
    number, spec = call.parameters.get("NumberOfBytes"), call.parameters.get("KeySpec")
    if (number is None) == (spec is None):
        raise Refusal("ValidationException", "Please specify either number of bytes or key spec.")
    size = _DATA_KEY_BYTES.get(str(spec)) if spec is not None else number
    if not isinstance(size, int) or not 1 <= size <= MAX_DATA_KEY:
        raise Refusal("ValidationException", f"A data key is AES_256, AES_128 or 1 to {MAX_DATA_KEY} bytes.")
    return size


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
