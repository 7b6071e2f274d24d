"""The port to a main key: describe, generate, wrap, unwrap, rewrap.

Every adapter returns the *generation* (the version of the main key's material) with every wrap it makes, or None where
its KMS hides it, and binds every wrap to an encryption context of ids. An adapter raises

- KmsRefused where the KMS gives a definite no (with its `cause`),
- KmsUnreachable or KmsThrottled where it gives no answer,
- WrapRefused where the key is fine and the bytes are not,
- NotConfigured where this installation keeps the provider closed (`managed:` without its file),

and nothing else: a vendor's error never crosses this line. Plaintext is 32 bytes and leaves only as a return value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable
from uuid import UUID

from schemas.keys import MainKeyUri

Context = Mapping[str, str]

ENVIRONMENT_KEY, KEY_KEY = "keyrepack:environment", "keyrepack:key"
"""The entries of a root's context. Customers' policies name the first."""


def encryption_context(environment: UUID, key: UUID) -> dict[str, str]:
    """Return what a root's wrap is bound to (R6). A KMS may log it in clear: ids only (R10)."""
    return {ENVIRONMENT_KEY: str(environment), KEY_KEY: str(key)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A main key that is there and usable. An unusable one raises KmsRefused instead.

    `generation` is None if the KMS does not report it.
    """

    main_key: MainKeyUri
    generation: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RootWrap:
    """A root's bytes as its KMS wrapped them, and the generation that did it."""

    blob: bytes = field(repr=False)  # R10: wraps stay out of reprs and logs
    generation: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A root's plaintext, and the generation its wrap was made by."""

    material: bytes = field(repr=False)  # R10
    generation: str | None


@runtime_checkable
class MainKey(Protocol):
    """One main key in its KMS."""

    uri: MainKeyUri

    async def describe(self) -> Description:
        """Return the key's generation now. Raises KmsRefused if the key exists and is unusable, or does not exist."""

    async def generate(self, context: Context) -> tuple[Opened, RootWrap]:
        """Fresh material of 32 bytes, and its wrap, of one generation."""

    async def wrap(self, material: bytes, context: Context) -> RootWrap:
        """Wrap `material`; the wrap has been opened again and compared before it is returned (R6)."""

    async def unwrap(self, blob: bytes, context: Context) -> Opened:
        """Open a wrap of any generation. Raises WrapRefused if the bytes are not this key's or the context differs."""

    def can_rewrap_from(self, source: MainKeyUri) -> bool:
        """Return True if `rewrap` can take a wrap of `source` without its plaintext leaving the KMS."""

    async def rewrap(self, blob: bytes, context: Context, source: MainKeyUri) -> RootWrap:
        """Move a wrap of `source` under this key's current generation, inside the KMS. Call `can_rewrap_from` first."""


class KmsProvider(Protocol):
    """Opens main keys of one scheme. Clients are shared; `close` lets go of them. `calls` counts by operation.

    `is_remote`: whether a call leaves the process, and so costs time, quota and money.
    """

    scheme: str
    is_remote: bool
    calls: dict[str, int]

    def main_key(self, uri: MainKeyUri) -> MainKey:
        """Return the key that `uri` names; no call is made. Raises MalformedMainKeyUri."""

    async def close(self) -> None:
        """Let go of connections."""
