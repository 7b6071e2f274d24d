"""Whatever boundary a process dies, fails, hangs or tarries at, the others finish, and nothing is lost."""

from __future__ import annotations

import os
import queue
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import SecretStr

from tests.failpoints.cell import Cell, Ground
from tests.servers import PostgresServer
from workers.compose import build_services
from workers.embedded.redis import RedisServer
from workers.keyring.keyring import Keyring
from workers.kms.local.managed import create_managed_key_file
from workers.main_keys import uploads
from workers.runtime.failpoints import Action, Point
from workers.runtime.settings import Settings
from workers.store.schema import migrate

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("failpoints")]

MEMORY = "/dev/shm"
"""A disk in memory, where there is one: hundreds of SQLite databases that commit durably would wait for each other."""

AT_ONCE = 8
"""Cells under way together: most of a cell's time is waiting for a lease or a time limit."""

DATABASES = ("sqlite", "postgresql")

CELLS = [
    pytest.param(point, action, database, id=f"{point.value}-{action.value}-{database}")
    for point, action, database in product(Point, Action, DATABASES)
]

NAME = "acme/production"
HOURLY, JOBS, CONNECTIONS = 2, 8, 1


class Matrix:
    """Makes the cells that were asked for, some at a time; each starts from a copy of one seeded database."""

    def __init__(self, folder: Path, server: PostgresServer, redis_server: RedisServer) -> None:
        self._folder, self._server = folder, server
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._brokers: queue.SimpleQueue[str] = queue.SimpleQueue()
        for number in range(AT_ONCE):
            self._brokers.put(f"{redis_server.url.rpartition('/')[0]}/{number}")
        self._key_file = folder / "managed.key"
        create_managed_key_file(self._key_file)
        self._sqlite = folder / "template.db"
        self._postgresql = server.create_database()
        self._targets = {
            "sqlite": self._seed(f"sqlite:///{self._sqlite}"),
            "postgresql": self._seed(server.url(self._postgresql)),
        }
        self._futures: dict[tuple[Point, Action, str], Future[str]] = {}

    def begin(self, point: Point, action: Action, database: str) -> None:
        """Take a cell up when there is room."""
        self._futures[point, action, database] = self._pool.submit(self._run, point, action, database)

    def result(self, point: Point, action: Action, database: str) -> str:
        """What is wrong; empty where nothing is."""
        return self._futures[point, action, database].result()

    def close(self) -> None:
        """Wait for what is under way, and drop the rest."""
        self._pool.shutdown(cancel_futures=True)
        self._server.drop_database(self._postgresql)

    def _run(self, point: Point, action: Action, database: str) -> str:
        folder, broker = self._folder / f"{point.value}-{action.value}-{database}", self._brokers.get()
        folder.mkdir()
        name = ""
        try:
            if database == "sqlite":
                shutil.copy(self._sqlite, folder / "keyrepack.db")
                url = f"sqlite:///{folder}/keyrepack.db"
            else:
                name = self._server.create_database(self._postgresql)
                url = self._server.url(name)
            cell = Cell(point, action, self._ground(url, broker, database), folder)
            try:
                cell.run()
            except Exception as error:
                return f"{type(error).__name__}: {error}\n{cell.said()}"
            finally:
                cell.close()
        finally:
            self._brokers.put(broker)
            if name:
                self._server.drop_database(name)
        return ""

    def _ground(self, url: str, broker: str, database: str) -> Ground:
        return Ground(
            database_url=url,
            broker_url=broker,
            managed_key_file=self._key_file,
            environment=NAME,
            targets=self._targets[database],
            data_keys=HOURLY * JOBS,
            roots=HOURLY + CONNECTIONS,
            wrapping_keys=HOURLY,
        )

    def _seed(self, url: str) -> tuple[str, ...]:
        """An environment of the usual tree on the platform's own key, and two main keys that its customer uploaded."""
        services = build_services(Settings(database_url=SecretStr(url), managed_key_file=self._key_file))
        migrate(services.database)
        keyring = Keyring(services)
        workspace, _, name = NAME.partition("/")
        keyring.create_environment(workspace, name, actor="test")
        keyring.create_data_keys(NAME, None, CONNECTIONS)
        parents = keyring.create_wrapping_keys(NAME, None, HOURLY)
        for parent in parents:
            keyring.create_data_keys(NAME, parent, JOBS)
        targets = []
        for _ in range(2):
            params = uploads.create_params(services, NAME, "test")
            public = load_pem_public_key(params.public_key.encode())
            assert isinstance(public, rsa.RSAPublicKey)
            scheme = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
            wrapped = public.encrypt(uuid4().bytes + uuid4().bytes, scheme)
            targets.append(str(uploads.accept(services, params.params_id, wrapped, "RSAES_OAEP_SHA_256", "test")))
        services.close()
        return tuple(targets)


@pytest.fixture(scope="module")
def matrix(
    request: pytest.FixtureRequest,
    postgresql_server: PostgresServer,
    redis_server: RedisServer,
) -> Iterator[Matrix]:
    """The cells of this run, under way from its first test on."""
    with tempfile.TemporaryDirectory(prefix="keyrepack-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as name:
        yield from _begun(request, Matrix(Path(name), postgresql_server, redis_server))


def _begun(request: pytest.FixtureRequest, matrix: Matrix) -> Iterator[Matrix]:
    for item in request.session.items:
        callspec = getattr(item, "callspec", None)
        if item.path == request.path and callspec is not None:
            matrix.begin(callspec.params["point"], callspec.params["action"], callspec.params["database"])
    yield matrix
    matrix.close()


@pytest.mark.parametrize(("point", "action", "database"), CELLS)
def test_a_process_that_fails_at_a_boundary_costs_nothing(
    matrix: Matrix, point: Point, action: Action, database: str
) -> None:
    """It is reached, it does its worst, and every rule holds at the end."""
    trouble = matrix.result(point, action, database)
    assert not trouble, trouble
