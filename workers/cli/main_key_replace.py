"""main-key replace, and what it would mean (--dry-run)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from schemas.states import Mode
from workers.cli.environment import Reference
from workers.cli.output import AsJson, Command, amount, duration, facts, note, say, table
from workers.cli.session import actor, broker_answers, opened

if TYPE_CHECKING:
    from workers.repack.dry_run import Forecast

AWAY = "The broker does not answer: nobody was woken. The repack starts as soon as beat's sweeper comes around."


def replace(
    environment: Reference,
    uri: Annotated[str, typer.Argument(metavar="URI", help="The new main key, such as aws-kms:<key ARN> or managed:.")],
    mode: Annotated[
        Mode, typer.Option(help="deep renews every wrapping key below as well; shallow moves the roots alone.")
    ] = Mode.DEEP,
    override: Annotated[
        str | None, typer.Option(metavar="REASON", help="Replace it again within the interval; kept in the audit.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would happen.")] = False,
    as_json: AsJson = False,
) -> None:
    """Replace an environment's main key: start a repack. The new key is probed first; an unusable one is refused.

    With --dry-run nothing changes: it says what both keys answer, how many keys, shards and KMS calls there are, how
    long it takes, and what stands in the way (exit status 1).

    Example: keyrepack main-key replace acme/production aws-kms:arn:aws:kms:eu-west-1:111122223333:key/… --dry-run
    """
    from schemas.keys import MainKeyUri

    target = MainKeyUri.parse(uri)
    if dry_run:
        _forecast(environment, target, mode, override)
    else:
        _start(environment, target, mode, override)


def _start(reference: str, target: object, mode: Mode, override: str | None) -> None:
    from schemas.keys import MainKeyUri
    from workers.monitoring.repack_report import repack_json
    from workers.repack.lifecycle import start_repack
    from workers.repack.starting import Request
    from workers.store.environments import find_environment

    assert isinstance(target, MainKeyUri)
    with opened(wakes=True) as services:
        with services.database.read() as connection:
            environment = find_environment(connection, reference)
        request = Request(environment=environment, target=target, mode=mode, actor=actor(), override=override)
        repack = start_repack(services, request)
        if not broker_answers(services.settings):
            note(AWAY)
    text = (
        f"Repack {repack.repack_id} of {environment} has started ({repack.mode}).\n"
        f"Follow it with `keyrepack repack watch {environment}`."
    )
    say(repack_json(repack, str(environment)), lambda out: out.print(text))


def _forecast(reference: str, target: object, mode: Mode, override: str | None) -> None:
    from schemas.keys import MainKeyUri
    from workers.repack.dry_run import forecast
    from workers.store.environments import find_environment

    assert isinstance(target, MainKeyUri)
    with opened() as services:
        with services.database.read() as connection:
            environment = find_environment(connection, reference)
        found = forecast(services, environment, target, mode, overridden=bool(override))
    say(found.as_json(), lambda out: _print_forecast(out, found))
    if found.blockers:
        raise typer.Exit(1)


def _print_forecast(out: Console, found: Forecast) -> None:
    out.print(f"[bold]A {found.mode} repack of {found.environment}[/], if it were started now; nothing was changed.\n")
    checks = [("ok" if one["ok"] else "FAULT", one["main_key"], one["cause"]) for one in found.findings]
    out.print(table(["", "main key", "it says"], checks))
    keys = [(kind, level, amount(count)) for kind, levels in found.keys.items() for level, count in levels.items()]
    out.print()
    out.print(table(["keys", "level ", "count "], keys))
    shards = "; ".join(f"{name}: {count}" for name, count in found.shards.items())
    lines = [
        ("shards", shards),
        ("KMS calls", f"about {amount(found.kms_calls)}"),
        ("time", f"about {duration(found.seconds)}; {found.rests_on}"),
    ]
    out.print()
    out.print(facts(lines))
    out.print()
    if not found.blockers:
        out.print("Nothing stands in the way.", style="green")
    for blocker in found.blockers:
        out.print(f"[bold red]in the way:[/] {blocker['what']} {blocker['why']}")
        out.print(f"  [dim]do:[/] {blocker['remedy']}")


COMMANDS: dict[str, Command] = {"replace": replace}
