"""AWS KMS clients: one per role and region, opened when first used, on the loop that uses it; calls at once are
limited.

Endpoints and credentials come from AWS's own variables (AWS_ENDPOINT_URL_KMS, AWS_ENDPOINT_URL_STS, AWS_PROFILE …).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import aioboto3
from botocore.config import Config

from workers.kms.aws.access import RoleToAssume
from workers.kms.aws.failures import THROTTLES
from workers.kms.aws.roles import Count, role_session
from workers.kms.aws.sessions import new_session
from workers.kms.rate_limit.concurrency import CallLimiter

OpenClient = Callable[[str, RoleToAssume | None], AbstractAsyncContextManager[Any]]
Throttled = Callable[[str, RoleToAssume | None], None]

CONNECT_SECONDS = 3.0
"""A TCP and TLS handshake within a region takes milliseconds: past this, there is no path."""

READ_SECONDS = 5.0
"""KMS answers in tens of milliseconds: past this, another try is better than more patience."""

_SDK_LOGGERS = ("botocore", "aiobotocore", "boto3", "aioboto3")
_CREDENTIAL_LOGGERS = ("botocore.credentials", "aiobotocore.credentials")
"""They write a traceback a failed AssumeRole; who called gets it as an error, and says it once."""


def silence_sdk() -> None:
    """Keep the SDK from logging below WARNING: at DEBUG it logs requests and responses, plaintext and all (R10)."""
    for name in _SDK_LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))
    for name in _CREDENTIAL_LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.ERROR))


class AwsClients:
    """The clients of one process. Calls belong on one event loop; another gets clients of its own, for safety."""

    def __init__(
        self, *, concurrency: int, attempts: int, count: Count, throttled: Throttled = lambda _region, _role: None
    ) -> None:
        """`count` hears of calls that are made to get credentials, `throttled` of every answer that is "too fast"."""
        self._concurrency, self._count, self._throttled = concurrency, count, throttled
        # `standard`, not `adaptive`: a hidden rate limiter would turn throttling into timeouts, and slow live unwraps
        # down with a repack. What slows a repack down is the budget, which all processes share.
        self._config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=concurrency,
        )
        self._loops: dict[asyncio.AbstractEventLoop, _LoopClients] = {}
        silence_sdk()

    @asynccontextmanager
    async def lend(self, region: str, role: RoleToAssume | None) -> AsyncIterator[Any]:
        """Lend a region's client that calls as `role`, for one call, once there is a free slot."""
        here = self._here()
        async with here.room.enter():
            yield await here.client(region, role, self._open)

    @asynccontextmanager
    async def _open(self, region: str, role: RoleToAssume | None) -> AsyncIterator[Any]:
        if role is None:
            session = aioboto3.Session(botocore_session=new_session())
        else:
            session = role_session(role, region, self._config, count=self._count)

        def hear(parsed_response: dict[str, Any] | None = None, **_: Any) -> None:
            code = (parsed_response or {}).get("Error", {}).get("Code")
            if code in THROTTLES:
                self._throttled(region, role)

        async with session.client("kms", region_name=region, config=self._config) as client:
            client.meta.events.register("response-received.kms", hear)  # of every try: the SDK repeats by itself
            yield client

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
        self.room = CallLimiter(concurrency)
        self._opening = asyncio.Lock()
        self._clients: dict[tuple[RoleToAssume | None, str], Any] = {}

    async def client(self, region: str, role: RoleToAssume | None, open_client: OpenClient) -> Any:
        """Return the client of a role and region."""
        found = self._clients.get((role, region))
        if found is None:
            async with self._opening:  # many calls may start at once; one opens
                found = self._clients.get((role, region))
                if found is None:
                    found = await self.stack.enter_async_context(open_client(region, role))
                    self._clients[role, region] = found
        return found
