"""Guards that refuse what a lock forbids."""

from __future__ import annotations

from workers.errors import EnvironmentLocked
from workers.store.database import Connection
from workers.store.environments import Environment, get_environment


def require_unlocked(connection: Connection, environment: Environment) -> None:
    """Raise EnvironmentLocked where the main key in force is restricted, revoked or lost."""
    require_open(get_environment(connection, environment.id))


def require_open(environment: Environment) -> Environment:
    """Return the same environment, as it was read. Raises EnvironmentLocked if it was locked then."""
    if environment.lock_cause is not None:
        raise EnvironmentLocked(environment=environment.environment_id, cause=environment.lock_cause)
    return environment
