"""The whole command, put together. What a command needs is imported when it runs: `--help` is quick."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from workers.cli import (
    audit,
    dashboard_user,
    environment,
    events,
    main_key_list,
    main_key_policy,
    main_key_replace,
    main_key_revoke,
    main_key_upload,
    managed_key,
    metrics_health,
    migrate_doctor,
    processes,
    reconcile,
    repack_control,
    repack_show,
    repack_watch,
    settings_table,
    top,
    up,
    verify,
)
from workers.cli.demo import command as demo
from workers.cli.error_output import INTERRUPTED, tell_failure
from workers.cli.output import Command, wishes

EPILOG = """
Examples:

  keyrepack demo                                   see it work, in half a minute

  keyrepack up                                     start every part on this machine

  keyrepack environment create acme/production

  keyrepack main-key replace acme/production aws-kms:arn:aws:kms:… --dry-run

  keyrepack repack watch acme/production

Exit status: 0 done, 1 failed, 2 wrong use, 3 not finished yet, 130 interrupted.
"""

TRY, RUN, KEYS, REPACKS, PROOF = "Try it", "Run it", "Keys", "Repacks", "Proof and events"


COMMANDS: Sequence[tuple[Command, str]] = (
    (demo.demo, TRY), (up.up, TRY), (processes.kms_simulator, TRY),
    (migrate_doctor.migrate, RUN), (migrate_doctor.doctor, RUN), (settings_table.settings, RUN),
    (processes.worker, RUN), (processes.beat, RUN),
    (top.top, RUN),
    (metrics_health.metrics, RUN),
    (dashboard_user.dashboard, RUN),
    (environment.seed, KEYS), (verify.verify, PROOF), (verify.certificate, PROOF),
    (reconcile.reconcile, PROOF),
)  # fmt: skip

MAIN_KEYS: Mapping[str, Command] = (
    main_key_replace.COMMANDS
    | main_key_list.COMMANDS
    | main_key_policy.COMMANDS
    | main_key_upload.COMMANDS
    | main_key_revoke.COMMANDS
)
REPACK: Mapping[str, Command] = repack_show.COMMANDS | repack_watch.COMMANDS | repack_control.COMMANDS

GROUPS: Sequence[tuple[str, str, str, Mapping[str, Command]]] = (
    ("environment", "Create environments and look at them.", KEYS, environment.COMMANDS),
    ("main-key", "Main keys for their whole life: replace, list, upload, revoke …", KEYS, MAIN_KEYS),
    ("managed-key", "The platform's own main key.", KEYS, managed_key.COMMANDS),
    ("repack", "Look at repacks, and steer them.", REPACKS, REPACK),
    ("health", "Whether workers make progress: for probes.", RUN, metrics_health.COMMANDS),
    ("audit", "The audit chain.", PROOF, audit.COMMANDS),
    ("user", "Who may sign in to the dashboard.", RUN, dashboard_user.COMMANDS),
    ("events", "Events from other services.", PROOF, events.COMMANDS),
)  # fmt: skip


def _callback(
    debug: Annotated[bool, typer.Option("--debug", help="Show logs, and a traceback where something fails.")] = False,
) -> None:
    """Move a customer's whole key hierarchy onto a new main key, through crashes, and prove it."""
    wishes.debug = debug


def build() -> typer.Typer:
    """Build the application with all its commands."""
    app = typer.Typer(
        name="keyrepack", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, epilog=EPILOG
    )
    app.callback()(_callback)
    for command, panel in COMMANDS:
        app.command(rich_help_panel=panel)(command)
    for name, text, panel, commands in GROUPS:
        group = typer.Typer(name=name, help=text, no_args_is_help=True)
        for word, command in commands.items():
            group.command(word)(command)
        app.add_typer(group, rich_help_panel=panel)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit status."""
    wishes.json, wishes.debug = "--json" in arguments, "--debug" in arguments
    try:
        status = build()(args=list(arguments), prog_name="keyrepack", standalone_mode=False)
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - the last one who can say it in a sentence
        return tell_failure(error)
    if status == INTERRUPTED:  # typer has caught the Ctrl-C itself
        return tell_failure(KeyboardInterrupt())
    return status if isinstance(status, int) else 0
