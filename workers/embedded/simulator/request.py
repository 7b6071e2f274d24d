"""One call to the simulated KMS: who makes it, where, what, and which keys it names."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workers.embedded.simulator.refusals import Refusal

DEFAULT_ACCOUNT = "123456789012"
"""The account of every caller whose access key id is not itself an account (moto's default account)."""

_CREDENTIAL = re.compile(r"Credential=(?P<access_key>[^/,\s]+)/\d+/(?P<region>[^/]+)/kms/")


@dataclass(frozen=True, slots=True, kw_only=True)
class KmsCall:
    """One call. Credentials are not checked: twelve digits as access key id call as that account."""

    operation: str
    region: str
    account: str
    parameters: Mapping[str, Any] = field(repr=False)  # plaintext may be among them

    @classmethod
    def parse(cls, headers: Mapping[str, str], body: bytes) -> KmsCall:
        """Read a request. Raises Refusal for one that AWS would not understand."""
        credential = _CREDENTIAL.search(headers.get("authorization", ""))
        if credential is None:
            raise Refusal("MissingAuthenticationTokenException", "Missing Authentication Token")
        service, _, operation = headers.get("x-amz-target", "").partition(".")
        if service != "TrentService" or not operation:
            raise Refusal("UnknownOperationException")
        access_key = credential["access_key"]
        account = access_key if re.fullmatch(r"\d{12}", access_key) else DEFAULT_ACCOUNT
        return cls(operation=operation, region=credential["region"], account=account, parameters=_parameters(body))

    def text(self, name: str) -> str:
        """A parameter that must be there."""
        value = self.parameters.get(name)
        if not isinstance(value, str) or not value:
            raise Refusal("ValidationException", f"Value null at '{name}': Member must not be null")
        return value

    def blob(self, name: str, limit: int) -> bytes:
        """A parameter of 1 to `limit` bytes."""
        try:
            value = base64.b64decode(self.text(name), validate=True)
        except binascii.Error as error:
            raise Refusal("SerializationException", f"'{name}' is not base64") from error
        if not 1 <= len(value) <= limit:
            raise Refusal("ValidationException", f"Value at '{name}': Member must have length 1 to {limit}")
        return value

    def context(self, name: str = "EncryptionContext") -> dict[str, str]:
        """An encryption context; without one, an empty one."""
        return dict(self.parameters.get(name) or {})


def _parameters(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body or b"{}")
    except ValueError as error:
        raise Refusal("SerializationException", "The body is not JSON") from error
    if not isinstance(found, dict):
        raise Refusal("SerializationException", "The body is not a JSON object")
    return found
