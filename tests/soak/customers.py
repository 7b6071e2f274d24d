"""Customers: their hierarchies, and what they ask for, one repack after another in every environment."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from producers.publisher import BrokerAway, publish_event
from schemas.errors import KeyrepackError
from schemas.events import Event
from tests.soak.installation import Installation
from workers.embedded.simulator.client import SimulatorRefused
from workers.keyring.keyring import Keyring
from workers.repack import control
from workers.store.environments import Environment, get_environment
from workers.store.repacks import Repack, latest_repack, list_repacks

HOURLY, CONNECTIONS = 6, 3
KEYS = 2
"""AWS keys an environment goes round among, the platform's own beside them."""

PAUSE = (0.3, 1.2)
MEDDLE = 0.12
"""How often a customer or an operator does something to a repack that runs."""


@dataclass(slots=True, kw_only=True)
class Tenant:
    """An environment with its keys."""

    environment: Environment
    keys: list[str]  # ARNs
    places: list[str]  # wrapping keys to create under
    known: list[tuple[str, str]] = field(default_factory=list)  # data keys, and what each opens to


class Customers:
    """Asks for repacks until told to stop."""

    def __init__(self, installation: Installation, rng: random.Random) -> None:
        self.asked: Counter[str] = Counter()
        self.tenants: list[Tenant] = []
        self._installation, self._rng = installation, rng
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="customers", daemon=True)
        self.error: Exception | None = None

    def settle(self, environments: int, data_keys: int) -> None:
        """Make the environments, the usual tree in each."""
        keyring = Keyring(self._installation.services)
        for number in range(environments):
            environment = keyring.create_environment("soak", f"e{number}", actor="soak")
            reference = environment.environment_id
            tenant = Tenant(
                environment=environment,
                keys=[self._installation.simulator.create_key() for _ in range(KEYS)],
                places=[str(key) for key in keyring.create_wrapping_keys(reference, None, HOURLY)],
            )
            made = [keyring.create_data_key(reference) for _ in range(CONNECTIONS)]
            for place in tenant.places:
                made += keyring.create_data_keys(reference, UUID(place), data_keys // environments // HOURLY)
            tenant.known = [(str(one.key_id), hashlib.sha256(one.material).hexdigest()) for one in made]
            self.tenants.append(tenant)

    def write_files(self) -> tuple[str, str]:
        """The files of readers and writers."""
        keys, places = self._installation.folder / "keys.json", self._installation.folder / "places.json"
        known = [[str(one.environment.environment_id), *pair] for one in self.tenants for pair in one.known]
        keys.write_text(json.dumps(known))
        where = [[str(one.environment.environment_id), place] for one in self.tenants for place in one.places]
        places.write_text(json.dumps(where))
        return str(keys), str(places)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; whatever was taken away is given back."""
        self._ending.set()
        self._thread.join()
        for tenant in self.tenants:
            self._publish(tenant, "main_key.restored")
            with contextlib.suppress(KeyrepackError):
                self._resume(tenant)

    def _resume(self, tenant: Tenant) -> None:
        services = self._installation.services
        with services.database.read() as connection:
            repack = latest_repack(connection, tenant.environment.id)
        if repack is not None and repack.is_open and not repack.is_running:
            control.resume(services, repack, actor="soak")

    def open_repacks(self) -> list[Repack]:
        """Those that have not ended. Raises DatabaseAway."""
        with self._installation.services.database.read() as connection:
            return [repack for repack in list_repacks(connection, limit=10_000) if repack.is_open]

    def _work(self) -> None:
        try:
            while not self._ending.wait(self._rng.uniform(*PAUSE)):
                with contextlib.suppress(KeyrepackError, SimulatorRefused):  # away, or another act was first
                    self._act(self._rng.choice(self.tenants))
        except Exception as error:
            self.error = error

    def _act(self, tenant: Tenant) -> None:
        services = self._installation.services
        with services.database.read() as connection:
            locked = get_environment(connection, tenant.environment.id).lock_cause
            repack = latest_repack(connection, tenant.environment.id)
        if locked == "revoked":
            self._publish(tenant, "main_key.restored")
        elif repack is not None and repack.is_open:
            if self._rng.random() < MEDDLE:
                self._meddle(tenant, repack)
        else:
            self._ask(tenant, repack)

    def _ask(self, tenant: Tenant, former: Repack | None) -> None:
        """A replacement, deep or shallow, or a rotation inside the KMS, which nobody tells."""
        in_force = former.target_key if former is not None else "managed:"
        if in_force.startswith("aws-kms:") and self._rng.random() < 0.2:
            self.asked["rotation"] += 1
            self._installation.simulator.rotate(in_force.partition(":")[2])
            return
        targets = ["managed:", *(f"aws-kms:{key}" for key in tenant.keys)]
        target = self._rng.choice([one for one in targets if one != in_force])
        mode = self._rng.choice(["deep", "deep", "shallow"])
        self._publish(tenant, "main_key.replaced", main_key=target, mode=mode)
        self.asked[mode] += 1

    def _meddle(self, tenant: Tenant, repack: Repack) -> None:
        act = self._rng.choice(["abort", "stop", "pause", "revoke"])
        self.asked[act] += 1
        if act == "revoke":
            self._publish(tenant, "main_key.revoked")
            return
        getattr(control, act)(self._installation.services, repack, actor="soak")
        if act == "pause":
            self._ending.wait(0.5)
            control.resume(self._installation.services, repack, actor="soak")

    def _publish(self, tenant: Tenant, kind: str, **data: str) -> None:
        """Tell it, mostly more than once; a broker that is away is told again."""
        data = {"environment": str(tenant.environment.environment_id), **data}
        body = Event(id=str(uuid4()), source="soak", type=kind, data=data).to_bytes()
        told = 0
        while told < self._rng.randint(1, 3):
            try:
                publish_event(self._installation.publisher, body)
                told += 1
            except BrokerAway:
                time.sleep(0.2)
