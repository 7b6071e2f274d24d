"""audit verify."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.console import Console

from workers.cli.output import AsJson, Command, amount, say
from workers.cli.session import opened


def verify(as_json: AsJson = False) -> None:
    """Follow the audit chain from its beginning to its head. Exit status 1 where it is broken.

    Compare the head with one that was noted elsewhere, such as in a certificate: records cut off later show there.
    """
    from workers.sweeper import verify_audit

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


COMMANDS: dict[str, Command] = {"verify": verify}
