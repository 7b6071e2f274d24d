"""HTTP/1.1 as KMS and STS clients speak it: POST with a length, connections kept open. One task a connection.

A server of its own, in few lines, because faults need the socket itself (an answer that never comes, a connection that
closes without one) and because a WSGI server costs more a call than the cryptography does.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

from workers.embedded.simulator.api import Simulator
from workers.embedded.simulator.control import PREFIX, Control, ControlCall
from workers.embedded.simulator.faults import FaultKind, InjectedFault
from workers.embedded.simulator.refusals import Refusal, as_json
from workers.embedded.simulator.request import KmsCall, is_for_sts
from workers.embedded.simulator.roles import StsCall, as_xml

_MAX_BODY = 1_000_000
"""Far above the largest call (a blob of 6,144 bytes and two contexts): a longer one is not a call to KMS."""

_JSON, _XML = "application/x-amz-json-1.1", "text/xml"

_log = logging.getLogger(__name__)


class HungUp(Exception):
    """The connection is to be closed without an answer."""


class Connections:
    """Answers every connection of one server."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._control = Control(simulator)
        self._open: set[asyncio.Task[Any]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection until it ends."""
        task = asyncio.current_task()
        if task is not None:
            self._open.add(task)
            task.add_done_callback(self._open.discard)
        try:
            while await self._answer_one(reader, writer):
                pass
        except (HungUp, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the other side, or a fault, has ended it
        except asyncio.CancelledError:
            pass  # the server closes; no one awaits this task
        finally:
            writer.close()

    async def close(self) -> None:
        """End every connection, hung ones too."""
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        method, target, headers = _head(await reader.readuntil(b"\r\n\r\n"))
        length = int(headers.get("content-length") or 0)
        if length > _MAX_BODY or "transfer-encoding" in headers:
            raise HungUp
        if headers.get("expect") == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(length)
        status, answer = await self._answer(method, target, headers, body)
        writer.write(_response(status, answer, _XML if is_for_sts(headers) else _JSON))
        await writer.drain()
        return headers.get("connection", "").lower() != "close"

    async def _answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        path, query = urlsplit(target).path, urlsplit(target).query
        if path.startswith(PREFIX):
            call = ControlCall(method=method, path=path, query=dict(parse_qsl(query)), body=body)
            status, found = self._control.answer(call)
            return status, json.dumps(found).encode()
        answer, written = (self._answer_sts, as_xml) if is_for_sts(headers) else (self._answer_kms, as_json)
        try:
            return await answer(headers, body)
        except Refusal as refusal:
            return refusal.status, written(refusal).encode()
        except HungUp:
            raise
        except Exception:  # noqa: BLE001  a fault of the simulator's own: said aloud here, an internal error to the caller
            _log.exception("simulator.call_failed")
            return 500, written(Refusal("KMSInternalException", "The simulator failed.")).encode()

    async def _answer_kms(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        call = KmsCall.parse(headers, body, self._simulator.roles.account_of)
        fault = self._simulator.receive(call)
        if fault is not None:
            await _suffer(fault)
        answer = self._simulator.answer(call)
        return 200, b"" if answer is None else json.dumps(answer).encode()

    async def _answer_sts(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        call = StsCall.parse(headers, body)
        fault = self._simulator.receive_sts(call)
        if fault is not None:
            await _suffer(fault)
        return 200, self._simulator.roles.assume(call).encode()


async def _suffer(fault: InjectedFault) -> None:
    """Let a fault happen; a delay is all that is answered after."""
    match fault.kind:
        case FaultKind.DELAY:
            await asyncio.sleep(fault.seconds)
        case FaultKind.HANG:
            await asyncio.Event().wait()
        case FaultKind.DROP:
            raise HungUp
        case _:
            raise fault.refusal()


def _head(data: bytes) -> tuple[str, str, dict[str, str]]:
    """Parse method, target and headers (names in lower case). Raises HungUp for what is not HTTP."""
    lines = data.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3:
        raise HungUp
    fields = (line.partition(":") for line in lines[1:] if line)
    return words[0], words[1], {name.strip().lower(): value.strip() for name, _, value in fields}


def _response(status: int, body: bytes, kind: str) -> bytes:
    reason = "OK" if status < 400 else "Refused"
    head = (
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        f"x-amzn-RequestId: {uuid4()}\r\n\r\n"
    )
    return head.encode() + body
