"""AWS KMS clients: one a region, opened when first used, on the event loop that uses it; and room for so many calls.

Endpoint and credentials come from AWS's own variables (AWS_ENDPOINT_URL_KMS, AWS_ENDPOINT_URL, AWS_PROFILE …).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aioboto3
from botocore.config import Config

CONNECT_SECONDS = 3.0
"""A TCP and TLS handshake within a region takes milliseconds: past this, there is no path."""

READ_SECONDS = 5.0
"""KMS answers in tens of milliseconds: past this, another try is better than more patience."""

_SDK_LOGGERS = ("botocore", "aiobotocore", "boto3", "aioboto3")


def silence_sdk() -> None:
    """Keep the SDK from logging below WARNING: at DEBUG it logs requests and responses, plaintext and all (R10)."""
    for name in _SDK_LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))


class AwsClients:
    """The clients of one process. Calls belong on one event loop; another gets clients of its own, for safety."""

    def __init__(self, *, concurrency: int, attempts: int) -> None:
        self._concurrency = concurrency
        # `standard`, not `adaptive`: a hidden rate limiter would turn throttling into timeouts, and slow live unwraps
        # down with a repack. Who calls sees KmsThrottled and slows itself down.
        self._config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=concurrency,
        )
        self._loops: dict[asyncio.AbstractEventLoop, _LoopClients] = {}
        silence_sdk()

    @asynccontextmanager
    async def lend(self, region: str) -> AsyncIterator[Any]:
        """A region's client, for one call, once there is room for it."""
        here = self._here()
        async with here.room:
            yield await here.client(region, self._config)

    async def close(self) -> None:
        """Close every client, on the loop it lives on."""
        here = asyncio.get_running_loop()
        while self._loops:
            loop, clients = self._loops.popitem()
            if loop is here:
                await clients.stack.aclose()
            elif loop.is_running():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(clients.stack.aclose(), loop))

    def _here(self) -> _LoopClients:
        loop = asyncio.get_running_loop()
        found = self._loops.get(loop)
        if found is None:
            for ended in [other for other in self._loops if other.is_closed()]:
                del self._loops[ended]
            found = self._loops[loop] = _LoopClients(self._concurrency)
        return found


class _LoopClients:
    """The clients of one event loop."""

    def __init__(self, concurrency: int) -> None:
        self.stack = AsyncExitStack()
        self.room = asyncio.Semaphore(concurrency)
        self._opening = asyncio.Lock()
        self._clients: dict[str, Any] = {}

    async def client(self, region: str, config: Config) -> Any:
        """The region's client. A role to assume in the key's account would be part of its name."""
        found = self._clients.get(region)
        if found is None:
            async with self._opening:  # many calls may start at once; one opens
                found = self._clients.get(region)
                if found is None:
                    session = aioboto3.Session()
                    opened = session.client("kms", region_name=region, config=config)
                    found = self._clients[region] = await self.stack.enter_async_context(opened)
        return found
