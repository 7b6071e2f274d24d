"""One call to the simulated KMS: who makes it, where, what, and which keys it names."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from workers.embedded.simulator.refusals import Refusal

DEFAULT_ACCOUNT = "123456789012"
"""The account of every caller whose access key id is not itself an account (moto's default account)."""

_CREDENTIAL = re.compile(r"Credential=(?P<access_key>[^/,\s]+)/\d+/(?P<region>[^/]+)/(?P<service>[a-z]+)/")


def read_credential(headers: Mapping[str, str]) -> tuple[str, str]:
    """Read the access key id and the region that a request is signed for. Raises Refusal for one that is not signed."""
    found = _CREDENTIAL.search(headers.get("authorization", ""))
    if found is None:
        raise Refusal("MissingAuthenticationTokenException", "Missing Authentication Token")
    return found["access_key"], found["region"]


def is_for_sts(headers: Mapping[str, str]) -> bool:
    """Return True if a request is signed for STS; any other is taken for KMS."""
    found = _CREDENTIAL.search(headers.get("authorization", ""))
    return found is not None and found["service"] == "sts"


def account_of(access_key: str) -> str:
    """Return the account that an access key id calls as: itself if it is an account, else the default one."""
    return access_key if re.fullmatch(r"\d{12}", access_key) else DEFAULT_ACCOUNT


@dataclass(frozen=True, slots=True, kw_only=True)
class KmsCall:
    """One call. Signatures are not checked: twelve digits as access key id call as that account."""

    operation: str
    region: str
    account: str
    parameters: Mapping[str, Any] = field(repr=False)  # plaintext may be among them

    @classmethod
    def parse(cls, headers: Mapping[str, str], body: bytes, account_of: Callable[[str, str], str]) -> KmsCall:
        """Read a request. Raises Refusal for one that AWS would not understand.

        `account_of` says whose call it is, by access key id and session token.
        """
        access_key, region = read_credential(headers)
        service, _, operation = headers.get("x-amz-target", "").partition(".")
        if service != "TrentService" or not operation:
            raise Refusal("UnknownOperationException")
        account = account_of(access_key, headers.get("x-amz-security-token", ""))
        return cls(operation=operation, region=region, account=account, parameters=_parameters(body))

    def text(self, name: str) -> str:
        """Return a parameter that must be there."""
        value = self.parameters.get(name)
        if not isinstance(value, str) or not value:
            raise Refusal("ValidationException", f"Value null at '{name}': Member must not be null")
        return value

    def blob(self, name: str, limit: int) -> bytes:
        """Return a parameter of 1 to `limit` bytes."""
        try:
            value = base64.b64decode(self.text(name), validate=True)
        except binascii.Error as error:
            raise Refusal("SerializationException", f"'{name}' is not base64") from error
        if not 1 <= len(value) <= limit:
            raise Refusal("ValidationException", f"Value at '{name}': Member must have length 1 to {limit}")
        return value

    def context(self, name: str = "EncryptionContext") -> dict[str, str]:
        """Return the encryption context; without one, an empty one."""
        return dict(self.parameters.get(name) or {})


def _parameters(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body or b"{}")
    except ValueError as error:
        raise Refusal("SerializationException", "The body is not JSON") from error
    if not isinstance(found, dict):
        raise Refusal("SerializationException", "The body is not a JSON object")
    return found
