"""The way to an OpenBao or Vault server: its HTTP API, and the token that is sent along."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from workers.errors import NotConfigured
from workers.kms.local.private_file import read_private, stamp
from workers.kms.openbao.failures import ApiAnswer
from workers.kms.rate_limit.concurrency import CallLimiter

VENDOR_ERRORS = (aiohttp.ClientError, TimeoutError, OSError)
"""All that a request can raise. TimeoutError is our own deadline's."""

ATTEMPTS = 2
"""A kept connection may have been closed by the server just now: one more try shows it. Every request may be repeated.
"""

MAX_TOKEN_BYTES = 4096
"""Batch tokens, the longest, have some hundreds."""

_TOKEN = re.compile(rb"[!-~]+")
_CLOSED = "OpenBao is closed"
_REMEDY = "Write a token into a file of mode 0600 and point KEYREPACK_OPENBAO_TOKEN_FILE to it."


class OpenBaoClient:
    """One session a process, for so many requests at once. `calls` counts them by operation."""

    def __init__(
        self,
        *,
        address: str,
        token_file: Path | None,
        namespace: str = "",
        concurrency: int = 16,
        timeout_seconds: float = 10.0,
    ) -> None:
        self.calls: dict[str, int] = {}
        self._address, self._token_file, self._namespace = address.rstrip("/"), token_file, namespace
        self._concurrency, self._timeout_seconds = concurrency, timeout_seconds
        self._seen: tuple[int, ...] = ()
        self._token = ""
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._room = CallLimiter(concurrency)

    def __repr__(self) -> str:
        return f"OpenBaoClient({self._address})"

    @property
    def address(self) -> str:
        """Return the server's URL."""
        return self._address

    async def send(self, operation: str, path: str, body: Mapping[str, str] | None) -> ApiAnswer:
        """Send one request: GET without a body, else POST. Raises VENDOR_ERRORS, NotConfigured without a usable token.

        Waiting for a slot does not count as time.
        """
        headers = self._headers()
        session = await self._open_session()
        async with self._room.enter(), asyncio.timeout(self._timeout_seconds):
            for _ in range(ATTEMPTS - 1):
                try:
                    return await self._ask(session, operation, path, body, headers)
                except aiohttp.ClientConnectionError:
                    continue
            return await self._ask(session, operation, path, body, headers)

    async def close(self) -> None:
        """Let go of connections, and forget the token."""
        session, self._session = self._session, None
        self._token, self._seen = "", ()
        if session is not None:
            await session.close()

    async def _ask(
        self,
        session: aiohttp.ClientSession,
        operation: str,
        path: str,
        body: Mapping[str, str] | None,
        headers: Mapping[str, str],
    ) -> ApiAnswer:
        self.calls[operation] = self.calls.get(operation, 0) + 1
        method, url = "GET" if body is None else "POST", f"{self._address}/v1/{path}"
        # A redirect is no answer: following it would hand the token to whomever it names.
        async with session.request(method, url, json=body, headers=headers, allow_redirects=False) as response:
            return _read_answer(response.status, await response.read())

    async def _open_session(self) -> aiohttp.ClientSession:
        """Return the session of the running loop; one of a loop that has ended is of no use."""
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            self._loop, self._room = loop, CallLimiter(self._concurrency)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._concurrency),
                timeout=aiohttp.ClientTimeout(total=self._timeout_seconds),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _headers(self) -> dict[str, str]:
        headers = {"X-Vault-Token": self._read_token(), "X-Vault-Request": "true"}
        return headers | ({"X-Vault-Namespace": self._namespace} if self._namespace else {})

    def _read_token(self) -> str:
        """Read the token in the file; it is read again whenever the file changed."""
        if self._token_file is None:
            raise NotConfigured(f"{_CLOSED}.", "No token file is set.", _REMEDY)
        seen = stamp(self._token_file, closed=_CLOSED, remedy=_REMEDY)
        if not self._token or seen != self._seen:
            self._token = ""
            content = read_private(self._token_file, max_bytes=MAX_TOKEN_BYTES, closed=_CLOSED, remedy=_REMEDY).strip()
            if not _TOKEN.fullmatch(content):
                raise NotConfigured(f"{_CLOSED}: {self._token_file}.", "There is no token in it.", _REMEDY)
            self._token, self._seen = content.decode("ascii"), seen
        return self._token


def _read_answer(status: int, body: bytes) -> ApiAnswer:
    """Read an answer of the API; what a proxy or another server says has neither data nor errors."""
    try:
        value: Any = json.loads(body)
    except (UnicodeDecodeError, ValueError, RecursionError):
        value = None
    told: dict[str, Any] = value if isinstance(value, dict) else {}
    data, errors = told.get("data"), told.get("errors")
    return ApiAnswer(
        status=status,
        data=data if isinstance(data, dict) else None,
        errors=[str(each) for each in errors] if isinstance(errors, list) else None,
    )
