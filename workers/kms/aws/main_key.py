"""Main keys in AWS KMS, the company's own or a customer's: `aws-kms:<key ARN>`.

Generations are key material ids. `Encrypt` is the one call that reports none, so `wrap` takes it from the Decrypt that
checks the new wrap. Which permissions that takes: `aws_permissions`. How an account is reached: `aws_access`.

A multi-region key may have a backup key: the same key in another region, which opens wraps (and nothing else) while the
first region gives no answer. A first region that answers is believed, whatever it says: what is revoked there is not
opened elsewhere.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from botocore import xform_name

from schemas.envelope import same_bytes
from schemas.keys import KEY_BYTES, AwsKeyArn, MainKeyUri
from workers.errors import Cause, KmsFailure, KmsRefused, KmsUnreachable, WrapReason, WrapRefused
from workers.kms.aws.access import Access, AccountAccess, RoleToAssume
from workers.kms.aws.clients import AwsClients
from workers.kms.aws.failures import STATE_CODES, VENDOR_ERRORS, Failure, RegionUnanswered, unusable
from workers.kms.aws.permissions import ACTIONS
from workers.kms.aws.regions import RegionMemory
from workers.kms.aws.roles import ASSUME_ROLE, RoleNotAssumed, attempts_of
from workers.kms.port import Context, Description, Opened, RootWrap
from workers.kms.rate_limit.budget import RateLimiter, live
from workers.runtime.logs import log

MAX_BLOB_BYTES = 6144
"""The longest CiphertextBlob that KMS takes (botocore's model): a longer one is no blob."""

DEFAULT_ATTEMPTS = 3
"""Tries of one call; past these, the caller decides when to ask again."""


class AwsKms:
    """Opens `aws-kms:` main keys. `calls` counts API calls by operation, retries included."""

    scheme = "aws-kms"
    is_remote = True

    def __init__(
        self,
        *,
        concurrency: int = 16,
        timeout_seconds: float = 10.0,
        attempts: int = DEFAULT_ATTEMPTS,
        access: Access | None = None,
        rate_limiter: RateLimiter | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.calls: dict[str, int] = {}
        self.memory = RegionMemory(clock)
        self._counting = threading.Lock()
        self._timeout_seconds = timeout_seconds
        self._access = access or {}
        self._rate_limiter = rate_limiter or RateLimiter()
        self._clients = AwsClients(
            concurrency=concurrency,
            attempts=attempts,
            count=self._count,
            throttled=lambda region, role: self._rate_limiter.throttled(budget_scope(region, role)),
        )

    def main_key(self, uri: MainKeyUri) -> AwsMainKey:
        """Return the key that `uri` names. Raises MalformedMainKeyUri."""
        return AwsMainKey(self, uri)

    def access_to(self, account: str) -> AccountAccess | None:
        """Return how an account's keys are reached; None: directly."""
        return self._access.get(account)

    async def admit(self, main_key: MainKeyUri, operation: str, region: str, role: RoleToAssume | None) -> None:
        """Wait until the caller's budget admits a call. Raises KmsBudgetSpent."""
        await self._rate_limiter.admit(budget_scope(region, role), main_key, operation)

    async def call(
        self, operation: str, region: str, parameters: dict[str, Any], role: RoleToAssume | None = None
    ) -> dict[str, Any]:
        """Make one API call ("GenerateDataKey"). Raises VENDOR_ERRORS; waiting for a slot does not count as time."""
        if operation not in ACTIONS:
            raise ValueError(f"{operation} is in no policy: add it to aws_permissions.")
        async with self._clients.lend(region, role) as client, asyncio.timeout(self._timeout_seconds):
            made = 1
            try:
                answer: dict[str, Any] = await getattr(client, xform_name(operation))(**parameters)
                made = attempts_of(answer)
            except VENDOR_ERRORS as error:
                made = 0 if isinstance(error, RoleNotAssumed) else attempts_of(error)
                raise
            finally:
                self._count(operation, made)
                self._rate_limiter.spent(
                    budget_scope(region, role), max(0, made - 1)
                )  # what the SDK repeated by itself
            return answer

    async def close(self) -> None:
        """Let go of connections."""
        await self._clients.close()

    def _count(self, operation: str, made: int) -> None:
        with self._counting:
            if made:
                self.calls[operation] = self.calls.get(operation, 0) + made


class AwsMainKey:
    """One key in AWS KMS."""

    def __init__(self, kms: AwsKms, uri: MainKeyUri) -> None:
        self.uri = uri
        self._kms = kms
        self._arn = AwsKeyArn.of(uri)
        access = kms.access_to(self._arn.account)
        self._role = None if access is None else access.role
        self._backup_region = None if access is None else access.backup_region

    def __repr__(self) -> str:
        return f"AwsMainKey({self.uri})"

    async def describe(self) -> Description:
        """Return the key's generation now; None if KMS hides it. Raises KmsRefused if the key is unusable."""
        metadata = (await self._call("DescribeKey", KeyId=self.uri.name))["KeyMetadata"]
        cause = unusable(metadata)
        if cause is not None:
            self._kms.memory.note_refusal(str(self.uri))
            detail = f"Its state is {metadata.get('KeyState')}, its type {metadata.get('KeySpec')}."
            raise KmsRefused(main_key=str(self.uri), cause=cause, operation="DescribeKey", detail=detail)
        return Description(main_key=self.uri, generation=metadata.get("CurrentKeyMaterialId"))

    async def generate(self, context: Context) -> tuple[Opened, RootWrap]:
        """Fresh material and its wrap, opened again and compared."""
        answer = await self._call(
            "GenerateDataKey", KeyId=self.uri.name, KeySpec="AES_256", EncryptionContext=dict(context)
        )
        made = Opened(material=answer["Plaintext"], generation=answer.get("KeyMaterialId"))
        wrap = RootWrap(blob=answer["CiphertextBlob"], generation=made.generation)
        _require_same(made.material, await self.unwrap(wrap.blob, context))  # R6
        return made, wrap

    async def wrap(self, material: bytes, context: Context) -> RootWrap:
        """Wrap `material`, and open the wrap again: to compare (R6), and because Encrypt reports no generation."""
        if len(material) != KEY_BYTES:
            raise ValueError(f"A key is {KEY_BYTES} bytes.")
        answer = await self._call("Encrypt", KeyId=self.uri.name, Plaintext=material, EncryptionContext=dict(context))
        opened = await self.unwrap(answer["CiphertextBlob"], context)
        _require_same(material, opened)
        return RootWrap(blob=answer["CiphertextBlob"], generation=opened.generation)

    async def unwrap(self, blob: bytes, context: Context) -> Opened:
        """Open a wrap of any generation of this key."""
        _require_blob(blob)
        answer = await self._decrypt(CiphertextBlob=blob, EncryptionContext=dict(context))
        if len(answer["Plaintext"]) != KEY_BYTES:  # a blob of this key and context, but not one of our roots
            raise WrapRefused(reason=WrapReason.MALFORMED)
        return Opened(material=answer["Plaintext"], generation=answer.get("KeyMaterialId"))

    def can_rewrap_from(self, source: MainKeyUri) -> bool:
        """Return True if ReEncrypt can take a wrap of `source`: it sees one region of one partition, and calls as one
        role.
        """
        if source.scheme != AwsKms.scheme:
            return False
        other = AwsMainKey(self._kms, source)
        return (other._arn.partition, other._arn.region, other._role) == (
            self._arn.partition,
            self._arn.region,
            self._role,
        )

    async def rewrap(self, blob: bytes, context: Context, source: MainKeyUri) -> RootWrap:
        """Move a wrap of `source` under this key by ReEncrypt: the plaintext stays inside KMS."""
        _require_blob(blob)
        answer = await self._call(
            "ReEncrypt",
            source,
            CiphertextBlob=blob,
            SourceKeyId=source.name,
            SourceEncryptionContext=dict(context),
            DestinationKeyId=self.uri.name,
            DestinationEncryptionContext=dict(context),
        )
        return RootWrap(blob=answer["CiphertextBlob"], generation=answer.get("DestinationKeyMaterialId"))

    async def _decrypt(self, **parameters: Any) -> dict[str, Any]:
        """Decrypt in the key's own region, and by its backup key where that one gives no answer."""
        backup, memory, region = self._backup(), self._kms.memory, self._arn.region
        if backup is None or memory.is_refused(str(self.uri)):
            return await self._call("Decrypt", KeyId=self.uri.name, **parameters)
        if memory.is_silent(region):
            return await self._decrypt_by(backup, f"{region} gave no answer a short while ago.", parameters)
        try:
            return await self._call("Decrypt", KeyId=self.uri.name, **parameters)
        except RegionUnanswered as error:
            log.warning("region.unanswered", region=region, backup=backup._arn.region, why=error.detail)
            return await self._decrypt_by(backup, f"{region}: {error.detail}", parameters)

    def _backup(self) -> AwsMainKey | None:
        """Return the same key in its account's backup region; None for a single-region key, and in the backup region
        itself.
        """
        backup = self._arn.in_region(self._backup_region)
        return None if backup is None else AwsMainKey(self._kms, MainKeyUri(AwsKms.scheme, str(backup)))

    async def _decrypt_by(self, backup: AwsMainKey, why: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Decrypt by the backup key. What it cannot do says nothing of the key: its own region has the last word."""
        try:
            return await backup._call("Decrypt", KeyId=backup.uri.name, **parameters)
        except (KmsRefused, KmsUnreachable, WrapRefused) as error:
            self._kms.memory.forget_silence(self._arn.region)  # no help: the next call asks there again
            detail = f"{why} Its backup in {backup._arn.region} did not open it: {error.why}"
            raise KmsUnreachable(main_key=str(self.uri), operation="Decrypt", detail=detail) from error

    async def _call(self, operation: str, source: MainKeyUri | None = None, /, **parameters: Any) -> dict[str, Any]:
        """Make one call; a vendor's error leaves as one of ours. `source` is the other key that the call names."""
        await self._kms.admit(self.uri, operation, self._arn.region, self._role)
        try:
            answer = await self._kms.call(operation, self._arn.region, parameters, self._role)
        except VENDOR_ERRORS as error:
            failure = Failure.of(error, main_key=self.uri, operation=operation, role=self._role)
            judged = await self._judged(failure, source)
            self._remember(failure, judged)
            raise judged from error
        self._kms.memory.forget_silence(self._arn.region)
        if operation == "Decrypt":
            self._kms.memory.note_use(str(self.uri))
        return answer

    def _remember(self, failure: Failure, judged: KmsFailure | WrapRefused) -> None:
        """Remember what a failure says of the region and of the key: for `_decrypt`."""
        memory = self._kms.memory
        if failure.is_silence:
            memory.note_silence(self._arn.region)
            return
        memory.forget_silence(self._arn.region)
        if isinstance(judged, KmsRefused):
            memory.note_refusal(judged.main_key)
        elif failure.code in STATE_CODES:
            memory.note_refusal(str(self.uri))

    async def _judged(self, failure: Failure, source: MainKeyUri | None) -> KmsFailure | WrapRefused:
        """Judge a failure: DescribeKey is asked if its code does not say which state, or which key."""
        keys = [self] if source is None or source == self.uri else [AwsMainKey(self._kms, source), self]
        cause, is_clear = failure.cause, len(keys) == 1 and failure.code not in STATE_CODES
        if cause is None or is_clear or failure.operation in {"DescribeKey", ASSUME_ROLE}:
            return failure.translated()
        if cause is Cause.DENIED and source is not None and "kms:ReEncrypt" in failure.message:
            return failure.refused(cause, source if "kms:ReEncryptFrom" in failure.message else self.uri)
        suspect = None
        for key in keys:
            found = await key._why_unusable()
            if isinstance(found, KmsUnreachable):
                return failure.unsettled(found.why)
            if found is Cause.DENIED and cause is not Cause.DENIED:
                suspect = key  # it may not even be described: the state that refused is most likely its
            elif found is not None:
                return failure.refused(found, key.uri)
        if suspect is not None:
            return failure.refused(cause, suspect.uri)
        return failure.translated() if cause in {Cause.DENIED, Cause.WRONG_USAGE} else failure.changing()

    async def _why_unusable(self) -> Cause | KmsUnreachable | None:
        """Ask DescribeKey why a key is unusable. The call waits for no slot: without its answer a refusal would pass
        for silence.
        """
        try:
            with live():
                await self.describe()
        except KmsRefused as refused:
            return refused.cause
        except KmsUnreachable as unreachable:
            return unreachable
        return None


def budget_scope(region: str, role: RoleToAssume | None) -> str:
    """Whose quota a call counts against: KMS throttles the *caller's* account in a region, not the key's."""
    return f"{AwsKms.scheme}:{'own' if role is None else role.arn.split(':')[4]}/{region}"


def _require_same(material: bytes, opened: Opened) -> None:
    if not same_bytes(material, opened.material):
        raise WrapRefused(reason=WrapReason.WRONG_FINGERPRINT)


def _require_blob(blob: bytes) -> None:
    if not 1 <= len(blob) <= MAX_BLOB_BYTES:
        raise WrapRefused(reason=WrapReason.MALFORMED)
