"""AWS KMS on a laptop: moto, and the generations, states, clock and faults that moto lacks. Loopback only."""

from workers.embedded.simulator.client import SimulatorClient, SimulatorRefused
from workers.embedded.simulator.server import DEFAULT_PORT, running_simulator, serve

__all__ = ["DEFAULT_PORT", "SimulatorClient", "SimulatorRefused", "running_simulator", "serve"]
