"""Serves the simulator, on this machine alone."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from workers.embedded.simulator.api import Simulator
from workers.embedded.simulator.client import SimulatorClient
from workers.embedded.simulator.wire import Connections
from workers.errors import NotConfigured

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 4599
"""Next to the ports other AWS emulators take, so that both can run."""

START_SECONDS = 30.0
"""How long a server in a thread may take to listen: importing moto on a busy machine is most of it."""


def require_loopback(host: str) -> str:
    """`host`, if it is an address of this machine alone. Raises NotConfigured: the simulator checks no credentials."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return host
    if host == "localhost":
        return LOOPBACK
    raise NotConfigured(
        f"The KMS simulator does not listen on {host}.",
        "It checks no credentials and holds no secrets worth keeping.",
        "Give it a loopback address, such as 127.0.0.1.",
    )


def serve(host: str = LOOPBACK, port: int = DEFAULT_PORT, *, ready: Callable[[int], None] | None = None) -> None:
    """Serve until interrupted. `ready` gets the port once connections are accepted; else a line is printed."""
    address = require_loopback(host)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(Simulator(), address, port, ready or _say_ready(address), asyncio.Event()))


@contextlib.contextmanager
def running_simulator(host: str = LOOPBACK, port: int = 0) -> Iterator[SimulatorClient]:
    """Run a simulator in a thread of this process, on a free port by default; stopped at the end of the block."""
    address = require_loopback(host)
    loop, stop, listening = asyncio.new_event_loop(), asyncio.Event(), Future[int]()

    def run() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(_serve(Simulator(), address, port, listening.set_result, stop))
        except OSError as error:
            if listening.done():
                raise
            listening.set_exception(error)  # for the block's thread: it waits for the port
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="kms-simulator", daemon=True)
    thread.start()
    try:
        yield SimulatorClient(f"http://{_in_url(address)}:{listening.result(START_SECONDS)}")
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)
        thread.join(START_SECONDS)


async def _serve(
    simulator: Simulator, address: str, port: int, ready: Callable[[int], None], stop: asyncio.Event
) -> None:
    connections = Connections(simulator)
    server = await asyncio.start_server(connections.serve, address, port)
    ready(server.sockets[0].getsockname()[1])
    try:
        await stop.wait()
    finally:
        server.close()
        await connections.close()
        await server.wait_closed()


def _say_ready(address: str) -> Callable[[int], None]:
    def say(port: int) -> None:
        url = f"http://{_in_url(address)}:{port}"
        sys.stdout.write(f"KMS simulator ready: export AWS_ENDPOINT_URL_KMS={url}\n")
        sys.stdout.flush()

    return say


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address
