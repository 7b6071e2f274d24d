"""Finds the provider of a main key by the scheme of its URI, and counts the calls that were made."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.keys import MainKeyUri
from workers.errors import Cause, KmsRefused
from workers.kms.port import KmsProvider, MainKey
from workers.kms.rate_limit.budget import Left, RateLimiter
from workers.kms.rate_limit.counted import CountedKey
from workers.runtime.counters import Counters


class KmsRegistry:
    """The configured providers, by scheme. A scheme without one is refused: closed when not configured."""

    def __init__(
        self,
        providers: Iterable[KmsProvider],
        counters: Counters | None = None,
        *,
        rate_limiter: RateLimiter | None = None,
    ) -> None:
        """Serve `providers`. `counters` counts their calls, outcomes and seconds; `rate_limiter` admits them."""
        self._providers = {provider.scheme: provider for provider in providers}
        self._counters, self._rate_limiter = counters, rate_limiter or RateLimiter()

    def main_key(self, uri: MainKeyUri | str) -> MainKey:
        """Return the main key that `uri` names. Raises MalformedMainKeyUri, or KmsRefused (`unsupported`)."""
        parsed = MainKeyUri.parse(uri) if isinstance(uri, str) else uri
        provider = self._providers.get(parsed.scheme)
        if provider is None:
            detail = f"This installation serves {', '.join(sorted(self._providers)) or 'none'}."
            raise KmsRefused(main_key=str(parsed), cause=Cause.UNSUPPORTED, operation="open", detail=detail)
        main_key = provider.main_key(parsed)
        return main_key if self._counters is None else CountedKey(main_key, self._counters)

    def total_calls(self) -> int:
        """Count the calls that this process made over a network to any KMS; the managed key takes none."""
        return sum(sum(provider.calls.values()) for provider in self._providers.values() if provider.is_remote)

    async def budget_left(self) -> list[Left]:
        """Return what is left of the budget, by account and region."""
        return [] if self._rate_limiter.budget is None else await self._rate_limiter.budget.left()

    async def close(self) -> None:
        """Let go of every provider's connections."""
        for provider in self._providers.values():
            await provider.close()
        await self._rate_limiter.close()
