"""One stack a database, shared by the tests of the run; one that a failed test left behind is thrown away.

Which broker goes with which database: SQLite with Redis (what a laptop has), PostgreSQL with RabbitMQ. So a test that
asks for `stack` runs on both databases and on both brokers, but not on all four pairs: neither knows of the other, and
the suite's minutes are few. The third pair that is common in production, PostgreSQL with Redis, is asked for by name
where a test's point is what holds between the two.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.acceptance.brokers import Broker, RabbitBroker, RedisBroker
from tests.acceptance.stack import LOG_LINES, LOG_WIDTH, Stack
from tests.poll import poll
from tests.servers import PostgresServer
from workers.embedded.simulator import SimulatorClient
from workers.embedded.supervisor import Child, Supervisor

_failed = pytest.StashKey[bool]()

START_SECONDS = 30.0

PAIRS = {"sqlite": "redis", "postgresql": "rabbitmq", "postgresql+redis": "redis"}
"""The broker of each kind of stack."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell the fixtures whether the test failed, and show what the processes said."""
    report = yield
    if report.failed:
        item.stash[_failed] = True
        stack = getattr(item, "funcargs", {}).get("stack")
        if stack is not None and call.when == "call":
            for name, text in stack.logs().items():
                report.sections.append((f"log of {name}", _tail(text)))
    return report


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorClient]:
    """A KMS simulator in a process of its own; AWS's SDK in this process speaks to it too."""
    folder = tmp_path_factory.mktemp("simulator")
    port_file = folder / "port"
    argv = [sys.executable, "-m", "workers.embedded.simulator", "--port", "0", "--port-file", str(port_file)]
    with Supervisor(folder) as supervisor, pytest.MonkeyPatch.context() as patch:
        supervisor.start(Child(name="simulator", argv=argv, restart=False))
        poll(port_file.exists, START_SECONDS, "the simulator listens")
        client = SimulatorClient(f"http://127.0.0.1:{json.loads(port_file.read_text())['port']}")
        for name, value in client.environment.items():
            patch.setenv(name, value)
        yield client


def _tail(text: str) -> str:
    return "\n".join(line[:LOG_WIDTH] for line in text.splitlines()[-LOG_LINES:])


class Stacks:
    """The running stack of one database and broker."""

    def __init__(
        self,
        folder: Path,
        simulator: SimulatorClient,
        server: PostgresServer | None,
        make_broker: Callable[[Supervisor, Path], Broker],
    ) -> None:
        self._folder, self._simulator, self._server, self._make_broker = folder, simulator, server, make_broker
        self._stack: Stack | None = None
        self._count = 0

    def take(self) -> Stack:
        """A stack in which everything runs."""
        if self._stack is None:
            self._count += 1
            folder = self._folder / str(self._count)
            folder.mkdir()
            url = f"sqlite:///{folder}/keyrepack.db"
            if self._server is not None:
                url = self._server.url(self._server.create_database())
            self._stack = Stack(
                folder, database_url=url, simulator=self._simulator, make_broker=self._make_broker
            ).open()
        self._stack.heal()
        return self._stack

    def drop(self) -> None:
        """Stop the stack."""
        if self._stack is not None:
            stack, self._stack = self._stack, None
            stack.close()


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def stacks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, simulator: SimulatorClient
) -> Iterator[Stacks]:
    """Each database in turn, with its broker."""
    server = request.getfixturevalue("postgresql_server") if request.param.startswith("postgresql") else None
    make_broker: Callable[[Supervisor, Path], Broker] = RedisBroker
    if PAIRS[request.param] == "rabbitmq":
        node = request.getfixturevalue("rabbitmq_server")
        make_broker = lambda _supervisor, _folder: RabbitBroker(node)  # noqa: E731
    stacks = Stacks(tmp_path_factory.mktemp(request.param), simulator, server, make_broker)
    yield stacks
    stacks.drop()


@pytest.fixture
def stack(request: pytest.FixtureRequest, stacks: Stacks) -> Iterator[Stack]:
    """Everything runs."""
    yield stacks.take()
    if request.node.stash.get(_failed, False):
        stacks.drop()
