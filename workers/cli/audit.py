"""audit verify, audit export."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from workers.cli.output import AsJson, Command, amount, note, say, to_json
from workers.cli.session import opened


def verify(as_json: AsJson = False) -> None:
    """Follow the audit chain from its beginning to its head. Exit status 1 where it is broken.

    Compare the head with one that was noted elsewhere, such as in a certificate: records cut off later show there.
    """
    from workers.maintenance.audit_check import verify_audit

    with opened() as services:
        verdict = verify_audit(services)

    def text(out: Console) -> None:
        if verdict.whole:
            out.print(f"The audit chain is whole: {amount(verdict.records)} records, head {verdict.head}")
        else:
            out.print(f"[bold red]The audit chain is broken[/] at record {verdict.broken_at}: {verdict.why}.")

    say(asdict(verdict), text)
    if not verdict.whole:
        raise typer.Exit(1)


def export(
    after: Annotated[int, typer.Option(min=0, metavar="SEQ", help="Only the records after this one.")] = 0,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Add them to a file; to standard output if left out.")
    ] = None,
) -> None:
    """Write audit records, one JSON document a line. Keep them elsewhere: after a restore they are the witness.

    What `keyrepack reconcile --witness FILE` reads. Each record is whole: its hash can be computed anew.
    """
    from workers.integrity.journal import export_record
    from workers.store.audit import records

    count = last = 0
    with opened() as services, services.database.snapshot() as connection, ExitStack() as stack:
        out = sys.stdout if file is None else stack.enter_context(file.open("a"))
        for record in records(connection, after=after):
            out.write(to_json(export_record(record)) + "\n")
            count, last = count + 1, record.seq
    if file is not None:
        note(f"{amount(count)} records{f', the last one is {last}' if count else ''}.")


COMMANDS: dict[str, Command] = {"verify": verify, "export": export}
