"""A real RabbitMQ for tests: Debian's, on loopback, with a name, ports, a home and a data folder of its own.

Erlang's port mapper (epmd) runs beside it as a child of its own: the node would leave one behind. Two virtual hosts
keep the suites apart: one for processes that stay up, one for contracts.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from amqp import Connection, Message
from amqp.exceptions import AMQPError, NotFound

from producers.topology import DEAD, EVENTS, EXCHANGE, TOLD, WORK_QUEUES
from tests.poll import poll
from tests.servers import ServerMissing
from workers.embedded.ports import LOOPBACK, free_port, is_open
from workers.embedded.supervisor import Child, Supervisor

PROGRAMS = (Path("/usr/lib/rabbitmq/bin/rabbitmq-server"),)
"""The server itself: what Debian puts on PATH is a wrapper that wants to be root, and another user."""

READY_SECONDS = 60.0
"""Erlang loads for ten seconds where others want the cores as well."""

STOP_SECONDS = 20.0
TRIES = 3

STACK, CONTRACT = "stack", "contract"

SETTINGS = """\
log.console = true
log.console.level = warning
load_definitions = {folder}/definitions.json
loopback_users.guest = true
disk_free_limit.absolute = 20MB
"""

DEFINITIONS = {
    "users": [{"name": "guest", "password": "guest", "tags": "administrator"}],
    "vhosts": [{"name": name} for name in ("/", STACK, CONTRACT)],
    "permissions": [
        {"user": "guest", "vhost": name, "configure": ".*", "write": ".*", "read": ".*"}
        for name in ("/", STACK, CONTRACT)
    ],
}


@dataclass(slots=True, kw_only=True)
class RabbitServer:
    """A RabbitMQ that answers, and what its owner can do to it."""

    supervisor: Supervisor = field(repr=False)
    folder: Path
    port: int = 0
    mapper_port: int = 0
    name: str = "rabbitmq"

    def url(self, host: str = STACK) -> str:
        """The URL of one of its virtual hosts."""
        return f"amqp://guest:guest@{LOOPBACK}:{self.port}/{host}"

    def start(self) -> None:
        """Start it on the ports it had, unless it runs; it remembers nothing."""
        if self.name in self.supervisor.running():
            return
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        self.supervisor.start(self._child())
        deadline = time.monotonic() + READY_SECONDS
        while not self._answers():
            if self.supervisor.pid(self.name) is None or time.monotonic() > deadline:
                raise ServerMissing(f"RabbitMQ did not start: {self.supervisor.tail(self.name, 8)}")
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL, as a machine that goes away; gone when this returns."""
        self.supervisor.kill(self.name, restart=False)
        while self.name in self.supervisor.running():
            time.sleep(0.02)

    def forget(self, host: str = STACK) -> None:
        """Delete all queues and exchanges of ours, under whoever uses them."""
        with Connection(f"{LOOPBACK}:{self.port}", virtual_host=host, connect_timeout=5) as connection:
            channel = connection.channel()
            for queue in (EVENTS, DEAD, *WORK_QUEUES):
                channel.queue_delete(queue)
            for exchange in (EXCHANGE.name, TOLD.name, DEAD):
                channel.exchange_delete(exchange)

    def waiting(self, *queues: str, host: str = STACK) -> int:
        """Messages that are ready in queues; none where a queue is not there."""
        with Connection(f"{LOOPBACK}:{self.port}", virtual_host=host, connect_timeout=5) as connection:
            return sum(_count(connection, queue) or 0 for queue in queues)

    def push(self, queue: str, item: bytes, *, host: str = STACK) -> None:
        """Put bare bytes into a queue; it has them when this returns."""
        address = f"{LOOPBACK}:{self.port}"
        with Connection(address, virtual_host=host, connect_timeout=5, confirm_publish=True) as connection:
            connection.channel().basic_publish(Message(item), routing_key=queue)

    def has(self, queue: str, *, host: str = STACK) -> bool:
        """Whether there is such a queue."""
        with Connection(f"{LOOPBACK}:{self.port}", virtual_host=host, connect_timeout=5) as connection:
            return _count(connection, queue) is not None

    def _answers(self) -> bool:
        """By a whole handshake, into the last virtual host that is made."""
        if not is_open(self.port):
            return False
        connection = Connection(f"{LOOPBACK}:{self.port}", virtual_host=CONTRACT, connect_timeout=5)
        try:
            connection.connect()
        except (OSError, AMQPError):
            return False
        finally:
            connection.collect()
        return True

    def _child(self) -> Child:
        return Child(
            name=self.name,
            argv=[str(_program())],
            env=self._environment(),
            cwd=self.folder,
            restart=False,
            stop_seconds=STOP_SECONDS,
        )

    def _environment(self) -> dict[str, str]:
        folder = self.folder
        return {
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(self.mapper_port),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "RABBITMQ_NODENAME": f"keyrepack-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
            # Two schedulers, which do not spin: others want the cores. Its node speaks to itself on loopback alone.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none "
            "-kernel inet_dist_use_interface {127,0,0,1}",
        }


@contextmanager
def running_rabbitmq(folder: Path) -> Iterator[RabbitServer]:
    """A real RabbitMQ for the length of a block. Raises ServerMissing."""
    mapper = shutil.which("epmd")
    if mapper is None:
        raise ServerMissing("Erlang's epmd is not on PATH: install rabbitmq-server")
    _program()
    (folder / "rabbitmq.conf").write_text(SETTINGS.format(folder=folder))
    (folder / "definitions.json").write_text(json.dumps(DEFINITIONS))
    (folder / "enabled_plugins").write_text("[].\n")
    with Supervisor(folder / "log") as supervisor:
        server = RabbitServer(supervisor=supervisor, folder=folder)
        for attempt in range(1, TRIES + 1):
            server.port, server.mapper_port = free_port(), free_port()
            argv = [mapper, "-port", str(server.mapper_port), "-address", LOOPBACK]
            supervisor.start(Child(name="epmd", argv=argv, env={"HOME": str(folder)}, restart=False))
            poll(partial(is_open, server.mapper_port), READY_SECONDS, "epmd answers")  # or the node starts a daemon
            try:
                server.start()
                break
            except ServerMissing:  # another process may have taken a port first
                supervisor.stop_child(server.name)
                supervisor.stop_child("epmd")
                if attempt == TRIES:
                    raise
        yield server


def _count(connection: Connection, queue: str) -> int | None:
    """Messages that are ready in a queue; None where it is not there."""
    channel = connection.channel()
    try:
        return int(channel.queue_declare(queue, passive=True).message_count)
    except NotFound:
        return None


def _program() -> Path:
    for program in PROGRAMS:
        if program.is_file():
            # It is a script: as a test of what it needs, Erlang has to be there too.
            subprocess.run(["erl", "-version"], capture_output=True, check=True, timeout=10)
            return program
    raise ServerMissing("RabbitMQ is not installed: install rabbitmq-server")
