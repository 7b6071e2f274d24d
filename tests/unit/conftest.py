"""A world of its own for each test, and one process's services on a database of its own; main keys in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, event

from tests.engine import Template, World
from tests.oracle import Oracle
from workers.compose import build_services
from workers.kms.local.memory import MemoryKms
from workers.runtime.settings import Settings
from workers.services import Services
from workers.store.models import metadata


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """An empty database to copy."""
    return Template(tmp_path_factory.mktemp("databases"))


@pytest.fixture
def world(template: Template) -> Iterator[World]:
    """A world with small batches."""
    world = template.world(batch_size=5, shard_size=10)
    yield world
    world.close()


@pytest.fixture
def oracle(world: World) -> Oracle:
    """It judges the world from its beginning."""
    return Oracle(world)


@pytest.fixture
def memory_kms() -> MemoryKms:
    return MemoryKms()


@pytest.fixture
def services(tmp_path: Path, memory_kms: MemoryKms) -> Iterator[Services]:
    """Nothing here waits for the disk: no test kills this process."""
    settings = Settings(database_url=SecretStr(f"sqlite:///{tmp_path}/keyrepack.db"), poll_calls_per_second=10_000)
    made = build_services(settings, providers=[memory_kms])
    _hurry(made.database.engine)
    with made.database.write() as connection:
        metadata.create_all(connection)
    yield made
    made.close()


def _hurry(engine: Engine) -> None:
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
