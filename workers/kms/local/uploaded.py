"""Main keys that customers uploaded: `uploaded:<id>`. Their material is sealed under the platform's own main key.

A key works for the environment that it was uploaded for, and no other. Nothing is kept in memory: every use reads the
sealed bytes again, so a key that was deleted is refused from that moment on, in every process.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from schemas.keys import KEY_BYTES, MainKeyUri
from schemas.keys import MANAGED as MANAGED
from workers.errors import Cause, DatabaseFailed, KmsRefused, KmsUnreachable, WrapRefused
from workers.kms.local.soft import SoftKey
from workers.kms.port import Context, Description, KmsProvider, Opened, RootWrap

GENERATION = "1"
"""Uploaded material never changes: another upload is another main key."""

_ENVIRONMENT = "keyrepack:environment"


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedKey:
    """An uploaded key as it is stored: the platform's wrap of it. None once it is deleted."""

    environment: UUID
    sealed: bytes | None = field(repr=False)


LoadSealed = Callable[[UUID], SealedKey | None]
"""Reads an uploaded key by its id; None where there never was one. May raise DatabaseFailed; called in a thread."""


def sealing_context(environment: UUID, key: UUID) -> dict[str, str]:
    """Return what a sealed key is bound to (R6): no root is bound to the same."""
    return {_ENVIRONMENT: str(environment), "keyrepack:uploaded-key": str(key)}


class UploadedKms:
    """Opens `uploaded:` main keys. `calls` counts by operation."""

    scheme = "uploaded"
    is_remote = False

    def __init__(self, managed: KmsProvider, load: LoadSealed) -> None:
        self.calls: dict[str, int] = {}
        self._managed, self._load = managed, load

    def main_key(self, uri: MainKeyUri) -> UploadedMainKey:
        """Return the key that `uri` names. Raises MalformedMainKeyUri."""
        return UploadedMainKey(self, MainKeyUri.parse(str(uri)))

    async def close(self) -> None:
        """Do nothing: no connection is held."""

    async def stored(self, operation: str, uri: MainKeyUri) -> SealedKey:
        """Load the key as it is stored now. Raises KmsRefused if it is deleted, KmsUnreachable without the database."""
        self.calls[operation] = self.calls.get(operation, 0) + 1
        try:
            found = await asyncio.to_thread(self._load, UUID(uri.name))
        except DatabaseFailed as error:
            detail = "It is kept in the database, which does not answer."
            raise KmsUnreachable(main_key=str(uri), operation=operation, detail=detail) from error
        if found is None or found.sealed is None:
            remedy = "Check the id. A deleted key cannot be brought back: upload another, and replace this one by it."
            raise KmsRefused(main_key=str(uri), cause=Cause.DELETED, operation=operation, remedy=remedy)
        return found

    async def soft_key(self, operation: str, uri: MainKeyUri, stored: SealedKey) -> SoftKey:
        """Open the key itself. Raises KmsRefused if the platform's own key does not open it."""
        context = sealing_context(stored.environment, UUID(uri.name))
        try:
            opened = await self._managed.main_key(MANAGED).unwrap(stored.sealed or b"", context)
        except WrapRefused as error:  # not the caller's wrap: the key above it
            detail = f"Its sealed material does not open ({error.reason.value})."
            remedy = "Restore the platform's own key file, or this key's row, from a backup."
            cause = Cause.UNAVAILABLE
            raise KmsRefused(
                main_key=str(uri), cause=cause, operation=operation, detail=detail, remedy=remedy
            ) from error
        return SoftKey(uri=uri, current=GENERATION, secrets={GENERATION: opened.material})


class UploadedMainKey:
    """One uploaded key."""

    def __init__(self, kms: UploadedKms, uri: MainKeyUri) -> None:
        self.uri = uri
        self._kms = kms

    def __repr__(self) -> str:
        return f"UploadedMainKey({self.uri})"

    async def describe(self) -> Description:
        """Return the key's one generation. Raises KmsRefused if it is deleted, or does not open."""
        await self._kms.soft_key("describe", self.uri, await self._kms.stored("describe", self.uri))
        return Description(main_key=self.uri, generation=GENERATION)

    async def generate(self, context: Context) -> tuple[Opened, RootWrap]:
        """Fresh material and its wrap."""
        material = os.urandom(KEY_BYTES)
        wrap = await self._wrapped("generate", material, context)
        return Opened(material=material, generation=wrap.generation), wrap

    async def wrap(self, material: bytes, context: Context) -> RootWrap:
        """Wrap `material`. Raises KmsRefused for another environment than it was uploaded for."""
        return await self._wrapped("wrap", material, context)

    async def unwrap(self, blob: bytes, context: Context) -> Opened:
        """Open a wrap of this key."""
        key = await self._kms.soft_key("unwrap", self.uri, await self._kms.stored("unwrap", self.uri))
        return key.open(blob, context)

    def can_rewrap_from(self, source: MainKeyUri) -> bool:
        """Never: it has one generation, and no other key is in its reach."""
        return False

    async def rewrap(self, blob: bytes, context: Context, source: MainKeyUri) -> RootWrap:
        """Not within this kind of key."""
        raise ValueError(f"{self.uri} does not rewrap from {source}.")

    async def _wrapped(self, operation: str, material: bytes, context: Context) -> RootWrap:
        stored = await self._kms.stored(operation, self.uri)
        if context.get(_ENVIRONMENT, str(stored.environment)) != str(stored.environment):
            detail = "It was uploaded for another environment."
            remedy = "Upload a key for this environment."
            cause = Cause.DENIED
            raise KmsRefused(main_key=str(self.uri), cause=cause, operation=operation, detail=detail, remedy=remedy)
        key = await self._kms.soft_key(operation, self.uri, stored)
        return key.wrap(material, context, os.urandom)
