"""The last point: every key is opened, every certificate shown, every count checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from workers.cli.certificate_text import print_certificate
from workers.cli.demo.rewrap_counter import rewrapped_twice, rewraps_below_wrapping_keys
from workers.cli.demo.scene import DemoFailed, Scene
from workers.cli.demo.story import Told
from workers.cli.output import amount, duration, facts, indented, table
from workers.integrity.verify import Report, verify_environment
from workers.monitoring.repack_report import RepackView, view_repack
from workers.store.audit import verify_chain


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What the demo comes to. Counts of keys are of data keys."""

    data_keys: int
    rewrapped: int
    rewrapped_twice: int
    quarantined: int
    stale: int
    verified: int
    created_meanwhile: int
    reader_unwraps: int
    reader_failures: int
    worker_kills: int
    takeovers: int
    seconds: float
    keys_per_second: float
    kms_calls: int
    repacks: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def prove(scene: Scene, told: Told) -> Summary:
    """Verify every key, show the certificates, and add it all up. Raises DemoFailed for whatever is not as it must."""
    scene.console.print("\n[bold cyan]6[/]  [bold]Every key is opened, and checked to be the one it was born as[/]")
    reports = _verify(scene, told)
    with scene.services.database.read() as connection:
        views = [view_repack(connection, repack) for repack in told.repacks]
        chain = verify_chain(connection)
    scene.console.print("\n   [bold]Certificates[/]")
    for view in views:
        if view.repack.certificate is not None:
            print_certificate(scene.console, view.repack.certificate, indent=3)
    summary = _summary(scene, told, reports, views)
    _check(scene, summary, views)
    if not chain.whole:
        raise DemoFailed("The audit chain is broken.", chain.why)
    _show(scene, summary, views)
    return summary


def _verify(scene: Scene, told: Told) -> list[Report]:
    reports = []
    for environment in told.environments:
        scene.interruption.check()
        reports.append(verify_environment(scene.services, environment))
    rows = [
        (
            report.environment,
            amount(report.data_keys),
            amount(report.wrapping_keys),
            report.broken or "none",
            report.stale or "none",
        )
        for report in reports
    ]
    columns = ["environment", "data keys ", "wrapping keys ", "broken ", "stale "]
    scene.console.print(indented(table(columns, rows), 3))
    return reports


def _summary(scene: Scene, told: Told, reports: list[Report], views: list[RepackView]) -> Summary:
    begun, ended = min(view.repack.created_at for view in views), max(view.repack.ended_at or 0 for view in views)
    rewrapped = sum(view.total("rewrapped") for view in views)
    return Summary(
        data_keys=told.data_keys,
        rewrapped=rewrapped,
        rewrapped_twice=rewrapped_twice(scene.services.database),
        quarantined=sum(len(view.quarantine) for view in views),
        stale=sum(report.stale + report.draining for report in reports),
        verified=sum(report.verified - report.wrapping_keys for report in reports),
        created_meanwhile=int(told.reader["created"]),
        reader_unwraps=int(told.reader["unwrapped"]),
        reader_failures=int(told.reader["failures"]),
        worker_kills=told.worker_kills,
        takeovers=sum(view.takeovers for view in views),
        seconds=round(ended - begun, 2),
        keys_per_second=round(rewrapped / max(ended - begun, 0.001), 1),
        kms_calls=sum(view.kms_calls for view in views),
        repacks=[_repack(view) for view in views],
    )


def _repack(view: RepackView) -> dict[str, Any]:
    return {
        "id": str(view.repack.repack_id),
        "environment": str(view.environment),
        "mode": view.repack.mode.value,
        "seconds": round(view.seconds, 2),
        "keys_per_second": round(view.keys_per_second, 1),
        "kms_calls": view.kms_calls,
    }


def _check(scene: Scene, summary: Summary, views: list[RepackView]) -> None:
    """Raise DemoFailed, naming the first thing that is not as the demo says."""
    keys = summary.data_keys + summary.created_meanwhile
    counted = sum(stage.rewrapped for view in views for stage in view.stages if stage.stage != "move")
    witnessed = rewraps_below_wrapping_keys(scene.services.database)
    blocked = [record for view in views for record in view.timeline if record["action"] == "repack.blocked"]
    wrong = {
        f"{keys - summary.verified} of {keys} keys do not open": summary.verified != keys,
        f"{summary.stale} keys or versions are stale": summary.stale,
        f"{summary.quarantined} keys are in quarantine": summary.quarantined,
        f"{summary.rewrapped_twice} keys were rewrapped twice by one repack": summary.rewrapped_twice,
        f"workers counted {counted} rewraps and the database saw {witnessed}": counted != witnessed,
        "nobody took over the killed worker's shard": not summary.takeovers,
        f"{len(blocked)} times a repack was blocked": blocked,
        "a repack has no certificate": not all(view.repack.certificate for view in views),
    }
    found = [text for text, is_wrong in wrong.items() if is_wrong]
    if found:
        raise DemoFailed("The proof failed.", f"{'; '.join(found)}.")


def _show(scene: Scene, summary: Summary, views: list[RepackView]) -> None:
    rows = [
        (
            view.environment,
            view.repack.mode.value,
            amount(view.total("rewrapped")),
            f"{view.seconds:.1f}",
            amount(view.keys_per_second),
            amount(view.kms_calls),
        )
        for view in views
    ]
    columns = ["repack of", "mode", "keys rewrapped ", "seconds ", "keys/s ", "KMS calls "]
    scene.console.print("\n   [bold]Summary[/]")
    scene.console.print(indented(table(columns, rows), 3))
    lines = [
        ("data keys", f"{amount(summary.data_keys)}, and {amount(summary.created_meanwhile)} created meanwhile"),
        ("verified", f"{amount(summary.verified)}, every one"),
        ("rewrapped", f"{amount(summary.rewrapped)} in {duration(summary.seconds)}"),
        ("rewrapped twice", "none, by the count of a trigger in the database"),
        ("quarantined, stale", "none"),
        ("workers killed", f"{summary.worker_kills}; shards taken over: {summary.takeovers}"),
        ("reads while it ran", f"{amount(summary.reader_unwraps)}; failures: none"),
        ("KMS calls", amount(summary.kms_calls)),
    ]
    scene.console.print()
    scene.console.print(indented(facts(lines), 3))
