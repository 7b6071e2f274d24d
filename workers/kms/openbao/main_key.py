"""Main keys in OpenBao's transit engine, or Vault's: `openbao:<mount>/<key>`, on the one server that is configured.

The generation is the key's version, which every wrap names: `vault:v<version>:<base64>`. The encryption context is the
associated data, as canonical JSON. `key_version` is never sent: it would choose an old version in silence. Material is
made here rather than by `datakey`, whose associated data Vault does not document; and the engine cannot rewrap what was
encrypted with associated data, so a wrap moves by decrypt and encrypt.

Least privilege: `read` on <mount>/keys/<key>, `update` on <mount>/encrypt/<key> and <mount>/decrypt/<key>.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from schemas.envelope import same_bytes
from schemas.keys import KEY_BYTES, MainKeyUri
from workers.errors import Cause, KmsFailure, KmsRefused, KmsUnreachable, WrapReason, WrapRefused
from workers.kms.openbao.client import VENDOR_ERRORS, OpenBaoClient
from workers.kms.openbao.failures import (
    TOO_MANY_REQUESTS,
    TOO_OLD,
    ApiAnswer,
    is_policy_denial,
    refused,
    translated,
    unusable,
)
from workers.kms.port import Context, Description, Opened, RootWrap
from workers.kms.rate_limit.budget import RateLimiter

MAX_BLOB_BYTES = 1024
"""A wrap of 32 bytes has about 90: a longer one is none."""

NEVER_CREATE = "none"
"""Sent as the key's type. Encrypting with a key that is not there would *create* it for a token that may: a deleted
main key would come back empty. No type has this name, so the server refuses; where the key is there, it is left alone.
"""

_BLOB = re.compile(rb"vault:v(?P<version>[1-9][0-9]{0,8}):[A-Za-z0-9+/]{4,}={0,2}")
_OTHER_CONTEXT = {"keyrepack:proof": "another context"}


class OpenBaoKms:
    """Opens `openbao:` main keys. `calls` counts requests by operation; a read that aiohttp repeats counts once."""

    scheme = "openbao"
    is_remote = True

    def __init__(self, client: OpenBaoClient, *, rate_limiter: RateLimiter | None = None) -> None:
        self.client = client
        self.rate_limiter, self.budget_scope = rate_limiter or RateLimiter(), f"{OpenBaoKms.scheme}:{client.address}"
        self.calls = client.calls
        self.binds_context = False  # until it is proven, once a process

    def main_key(self, uri: MainKeyUri) -> OpenBaoMainKey:
        """Return the key that `uri` names. Raises MalformedMainKeyUri."""
        return OpenBaoMainKey(self, MainKeyUri.parse(str(uri)))

    async def close(self) -> None:
        """Let go of connections and of the token."""
        await self.client.close()


class OpenBaoMainKey:
    """One key of a transit engine."""

    def __init__(self, kms: OpenBaoKms, uri: MainKeyUri) -> None:
        self.uri = uri
        self._kms = kms
        self._mount, _, self._key = uri.name.rpartition("/")

    def __repr__(self) -> str:
        return f"OpenBaoMainKey({self.uri})"

    async def describe(self) -> Description:
        """Return the key's latest version. Raises KmsRefused if it is unusable."""
        found = await self._call("read")
        cause = unusable(found)
        if cause is not None:
            raise refused(self.uri, cause, "read", f"Its type is {found.get('type')}.")
        return Description(main_key=self.uri, generation=str(found["latest_version"]))

    async def generate(self, context: Context) -> tuple[Opened, RootWrap]:
        """Fresh material and its wrap."""
        material = os.urandom(KEY_BYTES)
        wrap = await self.wrap(material, context)
        return Opened(material=material, generation=wrap.generation), wrap

    async def wrap(self, material: bytes, context: Context) -> RootWrap:
        """Wrap `material` by the latest version; opened again and compared (R6)."""
        if len(material) != KEY_BYTES:
            raise ValueError(f"A key is {KEY_BYTES} bytes.")
        plaintext = base64.b64encode(material).decode()
        body = {"plaintext": plaintext, "associated_data": _associated(context), "type": NEVER_CREATE}
        blob = str((await self._call("encrypt", body)).get("ciphertext")).encode()
        opened = await self.unwrap(blob, context)
        if not same_bytes(material, opened.material):
            raise WrapRefused(reason=WrapReason.WRONG_FINGERPRINT)
        await self._require_binding(blob)
        return RootWrap(blob=blob, generation=opened.generation)

    async def unwrap(self, blob: bytes, context: Context) -> Opened:
        """Open a wrap of any version that the key still opens."""
        generation = _generation_of(blob)
        body = {"ciphertext": blob.decode("ascii"), "associated_data": _associated(context)}
        answer = await self._call("decrypt", body)
        try:
            material = base64.b64decode(str(answer.get("plaintext")), validate=True)
        except binascii.Error:
            material = b""
        if len(material) != KEY_BYTES:  # of this key and context, but not one of our roots
            raise WrapRefused(reason=WrapReason.MALFORMED)
        return Opened(material=material, generation=str(generation))

    def can_rewrap_from(self, source: MainKeyUri) -> bool:
        """Never: the engine's rewrap takes no associated data."""
        return False

    async def rewrap(self, blob: bytes, context: Context, source: MainKeyUri) -> RootWrap:
        """Not within the engine."""
        raise ValueError(f"{self.uri} does not rewrap from {source}.")

    async def _require_binding(self, blob: bytes) -> None:
        """R6: a server that does not know associated data ignores it, and its wraps would open anywhere."""
        if self._kms.binds_context:
            return
        try:
            await self.unwrap(blob, _OTHER_CONTEXT)
        except WrapRefused:
            self._kms.binds_context = True
            return
        detail = "This server ignores associated data, so its wraps would open for any other key and tenant."
        remedy = "Update the server to a version whose transit engine knows `associated_data`."
        cause = Cause.WRONG_USAGE
        raise KmsRefused(main_key=str(self.uri), cause=cause, operation="encrypt", detail=detail, remedy=remedy)

    async def _call(self, operation: str, body: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return what a good answer holds; any other leaves as an error of ours."""
        answer = await self._send(operation, body)
        if answer.is_good:
            return answer.data or {}
        if answer.status == 403:
            raise await self._why_denied(operation)
        if answer.says(TOO_OLD) and body is not None:
            raise await self._why_too_old(operation, _generation_of(body["ciphertext"].encode()))
        raise translated(answer, self.uri, operation)

    async def _send(self, operation: str, body: Mapping[str, str] | None = None) -> ApiAnswer:
        paths = {"read": f"{self._mount}/keys/{self._key}", "lookup-self": "auth/token/lookup-self"}
        path = paths.get(operation, f"{self._mount}/{operation}/{self._key}")
        await self._kms.rate_limiter.admit(self._kms.budget_scope, self.uri, operation)
        try:
            answer = await self._kms.client.send(operation, path, body)
        except VENDOR_ERRORS as error:
            name = type(error).__name__
            raise KmsUnreachable(main_key=str(self.uri), operation=operation, detail=f"{name}.") from error
        if answer.status == TOO_MANY_REQUESTS:
            self._kms.rate_limiter.throttled(self._kms.budget_scope)
        return answer

    async def _why_denied(self, operation: str) -> KmsFailure | WrapRefused:
        """Find out what a 403 means: the same is said of a forbidden path, a missing key, and to an unknown token."""
        if operation != "read":
            found = await self._send("read")
            if found.status != 403 and not found.is_good:
                return translated(found, self.uri, operation)
            cause = unusable(found.data) if found.data else None
            if cause is not None:
                return refused(self.uri, cause, operation, "OpenBao said 403.")
        own = await self._send("lookup-self")
        if own.is_good or is_policy_denial(own):
            return refused(self.uri, Cause.DENIED, operation, "OpenBao said 403.")
        detail = "OpenBao does not accept keyrepack's own token."  # says nothing about the key: locks nothing
        return KmsUnreachable(main_key=str(self.uri), operation=operation, detail=detail)

    async def _why_too_old(self, operation: str, generation: int) -> KmsFailure | WrapRefused:
        """Say why a version is too old: one below min_decryption_version may be allowed again; one that was trimmed is
        gone.
        """
        found = (await self._send("read")).data or {}
        available = found.get("min_available_version")
        if isinstance(available, int) and generation < available:
            return WrapRefused(reason=WrapReason.DOES_NOT_OPEN)
        detail = f"Version {generation} is below the key's min_decryption_version."
        return refused(self.uri, Cause.GENERATION_DISABLED, operation, detail)


def _associated(context: Context) -> str:
    told = json.dumps(dict(context), sort_keys=True, separators=(",", ":"))
    return base64.b64encode(told.encode()).decode()


def _generation_of(blob: bytes) -> int:
    """Read the version that a wrap names. Raises WrapRefused for bytes of another form."""
    match = _BLOB.fullmatch(blob) if len(blob) <= MAX_BLOB_BYTES else None
    if match is None:
        raise WrapRefused(reason=WrapReason.MALFORMED)
    return int(match["version"])
