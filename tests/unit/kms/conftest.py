"""The AWS adapter on a simulator."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from workers.embedded.simulator import SimulatorClient, running_simulator


@pytest.fixture(scope="session")
def shared_simulator() -> Iterator[SimulatorClient]:
    with running_simulator() as client:
        yield client


@pytest.fixture
def simulator(shared_simulator: SimulatorClient, monkeypatch: pytest.MonkeyPatch) -> SimulatorClient:
    """An empty simulator, which AWS's SDK finds by its own variables."""
    shared_simulator.reset()
    for name, value in shared_simulator.environment.items():
        monkeypatch.setenv(name, value)
    return shared_simulator
