"""repack list, show."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from workers.cli.output import AsJson, Command, amount, duration, facts, moment, say, table
from workers.cli.session import opened

if TYPE_CHECKING:
    from workers.monitoring.progress import StageView
    from workers.monitoring.repack_report import RepackView

RepackReference = Annotated[
    str, typer.Argument(metavar="REPACK", help="A repack's id; or an environment, for its newest repack.")
]

SHOWN_QUARANTINE = 50
"""Quarantined keys named in a terminal; --json has all of them."""


def list_all(
    environment: Annotated[str | None, typer.Argument(metavar="[ENV]", help="Only this environment's.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List repacks, the newest first."""
    from workers.monitoring.repack_report import repack_json
    from workers.store.environments import find_environment, get_environment
    from workers.store.repacks import list_repacks

    with opened() as services, services.database.read() as connection:
        only = find_environment(connection, environment).id if environment else None
        found = list_repacks(connection, environment=only, limit=limit)
        names = {one.environment: str(get_environment(connection, one.environment)) for one in found}
    documents = [repack_json(repack, names[repack.environment]) for repack in found]
    rows = [
        (names[repack.environment], repack.mode, repack.state, moment(repack.created_at), moment(repack.ended_at),
         repack.target_key, repack.repack_id)
        for repack in found
    ]  # fmt: skip
    columns = ["environment", "mode", "state", "started", "ended", "to", "id"]
    empty = "There are no repacks. Start one with `keyrepack main-key replace`."
    say({"repacks": documents}, lambda out: out.print(table(columns, rows) if rows else empty))


def show(repack: RepackReference, as_json: AsJson = False) -> None:
    """Show everything about a repack: where it stands and what that means, what holds it up, what may be done."""
    view = read_view(repack)
    say(view.as_json(), lambda out: _print_repack(out, view))


def read_view(reference: str) -> RepackView:
    """Read a repack by its id or environment, with what lies ahead of it."""
    from workers.monitoring.progress import outline
    from workers.monitoring.repack_report import view_repack
    from workers.store.environments import count_keys
    from workers.store.repacks import find_any_repack

    with opened() as services, services.database.read() as connection:
        found = find_any_repack(connection, reference)
        ahead = outline(found.mode, count_keys(connection, found.environment)) if found.is_open else []
        return view_repack(connection, found, ahead=ahead)


def _print_repack(out: Console, view: RepackView) -> None:
    from workers.monitoring.repack_report import MEANING

    repack = view.repack
    out.print(f"[bold]{repack.state}[/]  {MEANING[repack.state]}\n")
    left = duration(view.seconds_left) if repack.is_running else None
    lines = [
        ("repack", repack.repack_id), ("environment", f"{view.environment} ({repack.environment_id})"),
        ("mode", repack.mode), ("from", repack.source_key), ("to", repack.target_key), ("asked by", repack.actor),
        ("started", moment(repack.created_at)), ("move closed", moment(repack.move_closed_at)),
        ("ended", moment(repack.ended_at)), ("took" if repack.ended_at else "running for", duration(view.seconds)),
        ("time left", left), ("rate", f"{amount(view.keys_per_second)} keys/s over all"),
        ("KMS calls", amount(view.kms_calls)), ("takeovers", f"{view.takeovers or 'no'} shards of dead workers"),
        ("may be", ", ".join(repack.legal_actions)),
    ]  # fmt: skip
    out.print(facts(lines))
    out.print()
    out.print(table(_STAGE_COLUMNS, [_stage_row(stage) for stage in view.stages]))
    _print_block(out, view)
    _print_quarantine(out, view)
    out.print()
    rows = [(moment(one["at"]), one["action"], one["actor"], _short(one["facts"])) for one in view.timeline]
    out.print(table(["when", "what", "who", "facts"], rows))


_STAGE_COLUMNS = [
    "stage",
    "",
    "keys ",
    "rewrapped ",
    "current ",
    "set aside ",
    "minted ",
    "shredded ",
    "shards ",
    "rate ",
]


def _stage_row(stage: StageView) -> list[str]:
    counts = [stage.rewrapped, stage.already_current, stage.quarantined, stage.minted, stage.shredded]
    keys = f"{amount(stage.seen)} / {amount(stage.expected)}"
    if stage.stage == "shred":
        keys = amount(stage.seen)
    return [
        stage.name,
        f"{stage.fraction:.0%}" if stage.state != "waiting" else "waiting",
        keys,
        *(amount(count) for count in counts),
        f"{stage.shards_done} / {stage.shards}",
        f"{amount(stage.rate)}/s" if stage.rate else "",
    ]


def _print_block(out: Console, view: RepackView) -> None:
    block = view.block
    if block is None:
        return
    out.print(f"\n[bold red]Held up by the {block['side']} main key:[/] {block['cause']}")
    again = f"{moment(block['looks_again_at'])}, after {block['probes']} tries"
    lines = [("key", block["main_key"]), ("it said", block["detail"]), ("do", block["remedy"]), ("looks again", again)]
    out.print(facts(lines))


def _print_quarantine(out: Console, view: RepackView) -> None:
    if not view.quarantine:
        return
    out.print(f"\n[bold red]In quarantine:[/] {amount(len(view.quarantine))} keys; each holds back one version")
    rows = [
        (one["key"], one["kind"], one["stage"], one["reason"], f"{one['holds_back']} version {one['version']}")
        for one in view.quarantine[:SHOWN_QUARANTINE]
    ]
    out.print(table(["key", "kind", "stage", "reason", "holds back"], rows))
    if len(view.quarantine) > SHOWN_QUARANTINE:
        out.print(f"and {amount(len(view.quarantine) - SHOWN_QUARANTINE)} more: see --json")
    out.print("Restore their rows from a backup, then run `keyrepack repack retry`.")


def _short(record: dict[str, Any]) -> str:
    """Facts on a line, those that are shown above left out."""
    kept = {name: value for name, value in record.items() if name not in {"mode", "from", "to", "source", "target"}}
    return json.dumps(kept, separators=(", ", " "))[1:-1].replace('"', "") if kept else ""


COMMANDS: dict[str, Command] = {"list": list_all, "show": show}
