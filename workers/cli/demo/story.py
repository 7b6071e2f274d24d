"""The demo from its first key to its last certificate: six points, in the order in which they happen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from producers.publisher import KombuPublisher, publish_event
from schemas.events import Event
from schemas.keys import MainKeyUri
from schemas.states import Mode
from workers.cli.demo.follow import Follower
from workers.cli.demo.kill import Killer
from workers.cli.demo.reader import ReaderCounts
from workers.cli.demo.rewrap_counter import count_rewraps
from workers.cli.demo.scene import WORKERS, DemoFailed, Scene
from workers.cli.output import amount, indented, table
from workers.cli.progress_counter import counted
from workers.cli.seed_tree import Seeded, seed_hierarchy
from workers.embedded.stack import start_program, wait_for_simulator, wait_for_worker
from workers.store.environments import Environment
from workers.store.repacks import Repack, get_repack

SHARES = (("acme", "production", 4), ("acme", "development", 1), ("globex", "production", 3), ("globex", "staging", 2))
"""Two workspaces with two environments each, and how many tenths of the keys each has."""

CONNECTIONS, HOURLY = 5, 24
"""Connection keys (data keys) and hourly keys (wrapping keys) below each main key."""

SOURCE = "demo/key-service"
READER = "reader"


@dataclass(slots=True, kw_only=True)
class Told:
    """What happened, for the summary."""

    data_keys: int
    environments: list[Environment]
    repacks: list[Repack] = field(default_factory=list)
    worker_kills: int = 0
    reader: dict[str, Any] = field(default_factory=dict)


def tell(scene: Scene, data_keys: int) -> Told:
    """Play the six points up to the proof. Raises DemoFailed at the first one that does not come true."""
    told, seeded = _create(scene, data_keys)
    report = _start_reader(scene, seeded)
    first = _replace_all(scene, told)
    _say_reader(scene, _require_reader(scene, report), "so far ")
    second = _replace_again(scene, told, first)
    _rotate(scene, told, second)
    told.reader = _stop_reader(scene, report)
    return told


# 1. Keys ----------------------------------------------------------------------------------------------------------


def _create(scene: Scene, data_keys: int) -> tuple[Told, dict[str, Seeded]]:
    _heading(scene, 1, f"Two workspaces, four environments, {amount(data_keys)} data keys on the platform's own key")
    seeded: dict[str, Seeded] = {}
    told = Told(data_keys=data_keys, environments=[])
    sizes = _sizes(data_keys)
    with counted(scene.console, "   creating keys", sum(sizes) + len(sizes) * HOURLY) as on_progress:
        for (workspace, name, _), size in zip(SHARES, sizes, strict=True):
            scene.interruption.check()
            environment = scene.keyring.create_environment(workspace, name, actor="demo")
            told.environments.append(environment)
            seeded[str(environment)] = seed_hierarchy(
                scene.keyring,
                str(environment),
                connections=CONNECTIONS,
                hourly=HOURLY,
                data=size - CONNECTIONS,
                on_progress=on_progress,
            )
    rows = [(name, CONNECTIONS, HOURLY, amount(one.data_keys - CONNECTIONS)) for name, one in seeded.items()]
    columns = ["environment", "connection keys ", "hourly keys ", "job data keys "]
    scene.console.print(indented(table(columns, rows), 3))
    count_rewraps(scene.services.database)
    return told, seeded


def _sizes(data_keys: int) -> list[int]:
    """Split data keys over the environments; the first one takes what does not divide."""
    sizes = [data_keys * tenths // 10 for *_, tenths in SHARES]
    sizes[0] += data_keys - sum(sizes)
    return sizes


# 2, 3. Every main key is replaced; a worker dies ------------------------------------------------------------------


def _replace_all(scene: Scene, told: Told) -> list[Repack]:
    _heading(scene, 2, "Every environment gets a main key in AWS KMS: one `main_key.replaced` each, into the queue")
    wait_for_simulator(scene.supervisor, scene.simulator)
    for name in WORKERS:
        wait_for_worker(scene.supervisor, name)
    killer, follower = Killer(scene), Follower(scene, told.environments, mode=Mode.DEEP)
    for environment in told.environments:
        key = scene.simulator.create_main_key(description=f"main key of {environment}")
        _publish(scene, environment, "main_key.replaced", main_key=str(key))

    def look(repacks: list[Repack]) -> bool:
        if len(repacks) == len(told.environments):
            killer.look([repack.id for repack in repacks if repack.is_running])
        return killer.is_armed

    told.repacks += (repacks := follower.follow(look))
    told.worker_kills = killer.kills
    if not killer.held:
        raise DemoFailed(
            "No worker was killed in mid-run.", "The renewal was over first.", "Run it again with more --data-keys."
        )
    return repacks


# 4. Another process reads and creates -----------------------------------------------------------------------------


def _start_reader(scene: Scene, seeded: dict[str, Seeded]) -> Path:
    keys, report = scene.folder / "reader-keys.json", scene.folder / "reader-counts.json"
    known = {
        name: {"keys": [str(key) for key in one.samples], "parents": [str(key) for key in one.hourly]}
        for name, one in seeded.items()
    }
    keys.write_text(json.dumps(known))
    start_program(
        scene.supervisor, READER, "workers.cli.demo.reader", "--keys", str(keys), "--report", str(report), env={}
    )
    return report


def _require_reader(scene: Scene, report: Path) -> dict[str, Any]:
    """Return the reader's counts so far. Raises DemoFailed if it has died."""
    if scene.supervisor.pid(READER) is None:
        raise DemoFailed("The process that reads keys has died.", scene.supervisor.tail(READER, 3))
    counts: dict[str, Any] = json.loads(report.read_text()) if report.exists() else asdict(ReaderCounts())
    return counts


def _stop_reader(scene: Scene, report: Path) -> dict[str, Any]:
    _require_reader(scene, report)
    scene.supervisor.stop_child(READER)
    counts: dict[str, Any] = json.loads(report.read_text())
    _say_reader(scene, counts, "in all ")
    if not counts["unwrapped"] or not counts["created"]:
        raise DemoFailed("The other process read or created nothing.", "It had no time to.", "Run it again.")
    return counts


def _say_reader(scene: Scene, counts: dict[str, Any], when: str) -> None:
    scene.console.print(
        f"[bold cyan]4[/]  another process has {when}unwrapped {amount(counts['unwrapped'])} keys and created "
        f"{amount(counts['created'])}; failures: {counts['failures'] or 'none'}"
    )
    if counts["failures"]:
        raise DemoFailed("A key did not open while it was moved.", str(counts["last_failure"]))


# 5. The old key is disabled; the new one is rotated ---------------------------------------------------------------


def _replace_again(scene: Scene, told: Told, first: Sequence[Repack]) -> Repack:
    """Replace one environment's key by a second one, and disable the first as soon as it is certified unneeded."""
    environment, former = told.environments[0], MainKeyUri.parse(first[0].target_key)
    _heading(scene, 5, f"{environment} gets a second key; the first is disabled as soon as the certificate allows it")
    follower = Follower(scene, [environment], mode=Mode.DEEP)
    second = scene.simulator.create_main_key(description=f"second main key of {environment}")
    _publish(scene, environment, "main_key.replaced", main_key=str(second))
    disabling: list[bool] = []

    def look(repacks: list[Repack]) -> bool:
        if repacks and repacks[0].move_closed_at is not None and not disabling:
            scene.simulator.set_state(former.name, "Disabled")
            with scene.services.database.read() as connection:
                disabling.append(get_repack(connection, repacks[0].id).is_open)
            scene.console.print("   the move has closed: the first key is disabled, while the renewal runs")
        return not disabling

    repack = follower.follow(look)[0]
    if not disabling[0]:
        raise DemoFailed(
            "The first key was disabled too late.", "The renewal was over first.", "Run it again with more --data-keys."
        )
    told.repacks.append(repack)
    return repack


def _rotate(scene: Scene, told: Told, repack: Repack) -> None:
    """Rotate the second key inside the KMS: a shallow repack follows."""
    environment, key = told.environments[0], MainKeyUri.parse(repack.target_key)
    scene.console.print("   the KMS rotates the second key, and `main_key.rotated` says so")
    follower = Follower(scene, [environment], mode=Mode.SHALLOW)
    scene.simulator.rotate(key.name)
    _publish(scene, environment, "main_key.rotated")
    told.repacks += follower.follow(lambda _: True)


def _publish(scene: Scene, environment: Environment, kind: str, **data: Any) -> None:
    """Publish an event with kombu, as another service would."""
    event = Event(
        id=str(uuid4()), source=SOURCE, type=kind, data={"environment": str(environment.environment_id), **data}
    )
    publisher = KombuPublisher(scene.services.settings.broker_url.get_secret_value())
    try:
        publish_event(publisher, event.to_bytes())
    finally:
        publisher.close()


def _heading(scene: Scene, number: int, text: str) -> None:
    scene.console.print(f"\n[bold cyan]{number}[/]  [bold]{text}[/]")
