"""A world of its own for each test: SQLite in a file, main keys in memory, time that stands still."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine import Template, World
from tests.oracle import Oracle


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
