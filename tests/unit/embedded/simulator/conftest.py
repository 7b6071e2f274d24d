"""A simulator, and AWS's own SDK pointed at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config

from workers.embedded.simulator import SimulatorClient, running_simulator

OWNER = "111122223333"
COMPANY = "123456789012"
REGION = "eu-west-1"

MakeClient = Callable[..., Any]


@pytest.fixture(scope="session")
def shared_simulator() -> Iterator[SimulatorClient]:
    with running_simulator() as client:
        yield client


@pytest.fixture
def simulator(shared_simulator: SimulatorClient) -> SimulatorClient:
    """An empty simulator."""
    shared_simulator.reset()
    return shared_simulator


@pytest.fixture(scope="session")
def client_of(shared_simulator: SimulatorClient) -> MakeClient:
    """boto3's client of an account in a region."""
    made: dict[tuple[str, str, float], Any] = {}

    def client(account: str = COMPANY, region: str = REGION, patience: float = 30) -> Any:
        if (account, region, patience) not in made:
            made[account, region, patience] = boto3.client(
                "kms",
                endpoint_url=shared_simulator.url,
                region_name=region,
                aws_access_key_id=account,
                aws_secret_access_key="none",
                config=Config(retries={"total_max_attempts": 1}, read_timeout=patience),
            )
        return made[account, region, patience]

    return client


@pytest.fixture
def kms(simulator: SimulatorClient, client_of: MakeClient) -> Any:
    """boto3's client of the company's account."""
    return client_of()


@pytest.fixture
def owner(simulator: SimulatorClient, client_of: MakeClient) -> Any:
    """boto3's client of the customer's account."""
    return client_of(OWNER)


@pytest.fixture
def arn(simulator: SimulatorClient) -> str:
    """A customer's key, which lets the company in."""
    return simulator.create_key(account=OWNER, region=REGION)
