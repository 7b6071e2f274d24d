"""A main key whose calls are counted: by operation of the port, how each ended, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import TypeVar

from schemas.keys import MainKeyUri
from workers.errors import KmsRefused, KmsUnreachable, WrapRefused
from workers.kms.port import Context, Description, MainKey, Opened, RootWrap
from workers.runtime.counters import KMS_CALLS, KMS_SECONDS, Counters

T = TypeVar("T")

OK, FAILED = "ok", "failed"


class CountedKey:
    """Passes every call on."""

    def __init__(self, main_key: MainKey, counters: Counters) -> None:
        self.uri = main_key.uri
        self._main_key, self._counters = main_key, counters

    def __repr__(self) -> str:
        return repr(self._main_key)

    async def describe(self) -> Description:
        """See MainKey.describe."""
        return await self._count("describe", self._main_key.describe())

    async def generate(self, context: Context) -> tuple[Opened, RootWrap]:
        """See MainKey.generate."""
        return await self._count("generate", self._main_key.generate(context))

    async def wrap(self, material: bytes, context: Context) -> RootWrap:
        """See MainKey.wrap."""
        return await self._count("wrap", self._main_key.wrap(material, context))

    async def unwrap(self, blob: bytes, context: Context) -> Opened:
        """See MainKey.unwrap."""
        return await self._count("unwrap", self._main_key.unwrap(blob, context))

    def can_rewrap_from(self, source: MainKeyUri) -> bool:
        """See MainKey.can_rewrap_from."""
        return self._main_key.can_rewrap_from(source)

    async def rewrap(self, blob: bytes, context: Context, source: MainKeyUri) -> RootWrap:
        """See MainKey.rewrap."""
        return await self._count("rewrap", self._main_key.rewrap(blob, context, source))

    async def _count(self, operation: str, call: Awaitable[T]) -> T:
        scheme, begun, code = self.uri.scheme, time.monotonic(), FAILED
        try:
            result = await call
            code = OK
        except (KmsRefused, KmsUnreachable) as error:
            code = error.cause.value
            raise
        except WrapRefused as error:
            code = error.reason.value
            raise
        finally:
            self._counters.count(KMS_CALLS, scheme, operation, code)
            self._counters.observe(KMS_SECONDS, scheme, operation, seconds=time.monotonic() - begun)
        return result
